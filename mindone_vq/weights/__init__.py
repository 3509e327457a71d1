"""The only room that knows file formats: where weights lie, how they are named, how a cell gets them."""
