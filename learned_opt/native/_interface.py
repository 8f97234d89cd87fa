"""The number of the interface between the Python code and the C++ library.

Raise it with every change to what the library's functions take or return. `setup.py` compiles it
into the library, and `learned_opt.native` leaves out a library that answers another number.
"""

INTERFACE = 4
