"""The edge: connections, deadlines and bounds, in one event loop for each worker, in front of the WSGI application.

    worker.py       gunicorn's worker: the loop, the listening sockets, the end
    roles.py        which workers serve connections, and which compute runs
    accepting.py    the listening sockets
    crowds.py       the number of clients of each worker
    edge.py         the state that a worker's connections share: bounds, the sweep, early refusals, health
    connection.py   one connection: reading under deadlines, sending under backpressure
    kernel.py       what the kernel knows of a connection
    exchange.py     one request at work in a thread: the WSGI side
    environ.py      the WSGI environment, made of the head of a request
    parser.py       gunicorn's HTTP parser, with faster checks
    answers.py      the bytes of responses, and the responses that the edge makes itself
    pool.py         the threads

docs/decisions/0015-edge.md gives the reasons.
"""
