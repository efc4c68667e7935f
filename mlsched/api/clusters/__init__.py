"""The client of a Kubernetes cluster: the operations of the service, answered by the API server.

Asks with the user's own credentials and needs no service on this machine. What a cluster does not
keep, such as why a job waits, is worked out here by the code that the controller runs.
"""
