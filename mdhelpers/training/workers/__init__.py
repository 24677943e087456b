"""Who runs the tasks of training: processes of this machine, or hosts of a cluster."""
