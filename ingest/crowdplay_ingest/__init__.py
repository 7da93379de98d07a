"""Raw CrowdPlay recordings in, a lake out: the only package that opens pickles, and it never unpickles one."""
