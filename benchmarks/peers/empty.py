"""A Flask application that does nothing, on the service's server settings: the least that a request can cost."""

from flask import Flask, Response, request

app = Flask(__name__)


@app.route("/", methods=["GET", "POST"])
def empty() -> Response:
    request.get_data()  # an unread body would cost the connection
    return Response(b"{}", mimetype="application/json")
