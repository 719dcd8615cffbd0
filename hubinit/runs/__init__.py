"""Many runs: plan, worker, gates, results."""
