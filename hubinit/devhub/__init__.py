"""The embedded Hub: a small server that speaks the Hub's protocol on this machine only."""
