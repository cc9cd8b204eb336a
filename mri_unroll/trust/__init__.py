"""Trust: how wrong a picture is likely to be, and whether what was measured can be believed."""
