"""The flow process: Python programs of users that run on events of the server (RG.PYEXECUTE)."""
