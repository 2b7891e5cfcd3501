"""The machine under a run: files, settings as data, devices, hosts, compiled programs.

May import ``models``; knows nothing of the method.
"""
