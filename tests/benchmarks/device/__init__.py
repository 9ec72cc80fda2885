"""Ways to run many super-fine-tuning settings on one device, one file each; `ways.py` has the table."""
