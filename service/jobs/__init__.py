"""Videos that nobody waits for: taken in, kept on disk, looked at window by window, told as segments."""
