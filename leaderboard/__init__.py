"""What is deployed: the leaderboard data set and its app."""
