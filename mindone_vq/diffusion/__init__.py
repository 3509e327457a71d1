"""The mathematics of discrete diffusion. No network in here."""
