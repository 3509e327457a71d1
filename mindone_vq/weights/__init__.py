"""File formats: finding, reading, naming and writing weights. No other package knows them."""
