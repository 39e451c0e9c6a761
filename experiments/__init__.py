"""One folder per figure or table: run.py, README.md, results.json, figure."""
