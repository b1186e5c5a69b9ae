"""What a bundle reaches on labelled clips, and whether its INT8 may be published."""
