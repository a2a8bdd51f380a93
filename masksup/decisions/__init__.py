"""What a model that is in use needs to decide: calibration and thresholds. numpy alone."""
