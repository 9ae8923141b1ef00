"""What Dramatiq's tests need and its distribution leaves out."""
