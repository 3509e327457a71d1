"""What MindSpore needs in the processes that Ray starts."""

ENVIRONMENT = {
    # Ray and MindSpore bring releases of protobuf's compiled part that cannot be in one process; the one in Python can.
    "PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": "python",
    "OMP_WAIT_POLICY": "PASSIVE",  # idle threads do not spin on the cores that others need
}
