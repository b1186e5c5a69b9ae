"""What a user's file is, told by its content, and how a Keras 3 model comes out of it."""
