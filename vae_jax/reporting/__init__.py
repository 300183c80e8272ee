"""Reports of many runs: read, measured, judged, rendered."""
