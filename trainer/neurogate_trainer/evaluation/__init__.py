"""How good a version is: metrics, calibration, what it refuses, where its maps point."""
