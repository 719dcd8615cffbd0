"""Publishing to a Hub and getting adapters from it."""
