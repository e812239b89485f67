"""The floor: Flask doing nothing, on the same server settings as the service."""

from flask import Flask, Response, request

app = Flask(__name__)


@app.route("/", methods=["GET", "POST"])
def empty() -> Response:
    request.get_data()  # an unread body would cost the connection
    return Response(b"{}", mimetype="application/json")
