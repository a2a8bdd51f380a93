"""Every setting, how it is read and checked, and the page of parts that can be chosen by name. No torch."""
