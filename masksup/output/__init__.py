"""What a person takes away: labels, pictures, the files for the VOC server."""
