"""The edge: connections, deadlines and bounds, in one event loop for each worker, before the WSGI application.

    worker.py       gunicorn's worker: the loop, the listening sockets, the end
    edge.py         what the connections of a worker share: bounds, the sweep, early refusals, health
    connection.py   one connection: reading under deadlines, sending under backpressure
    exchange.py     one request at work in a thread: the WSGI side
    environ.py      the environment of WSGI, from the head of a request
    parser.py       gunicorn's HTTP parser, with faster checks
    answers.py      the bytes of answers, and those that the edge makes itself
    pool.py         the threads

docs/decisions/0015-edge.md says why.
"""
