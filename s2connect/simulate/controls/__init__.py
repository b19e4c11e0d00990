"""What a simulated device says and takes while a control type is selected, of each control type."""
