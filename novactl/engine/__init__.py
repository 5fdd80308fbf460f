"""The saga: steps, the journal they are written in, and the runner; it knows nothing of VMs."""
