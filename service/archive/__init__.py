"""Whole archives: every image and video below a folder or in an object store, into one Parquet file, by Ray Data."""
