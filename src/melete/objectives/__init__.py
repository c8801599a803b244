"""What is minimised: one file per objective, all to the contract in `base.py`."""
