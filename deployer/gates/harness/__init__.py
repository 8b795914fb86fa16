"""What gates share: client, runner, target, report."""
