"""Nova without the control plane: a fleet of KVM hosts, run over SSH."""
