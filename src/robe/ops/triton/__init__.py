"""The ops in Triton: kernels, and the functions that launch them. Imported only where something is launched."""
