"""uvicorn's HTTP protocol with a bound on a request's head, which it has none of: any caller could fill the memory.

What is no HTTP is answered in OpenAI's shape here, since no app ever sees it.
"""

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from serve.errors import BadRequest, HeadTooLarge, error_body, error_headers

MAX_HEADERS = 100
MAX_HEAD_BYTES = 64 * 1024


class BoundedHttp(HttpToolsProtocol):
    """431, and the end of the connection, for more headers or a longer head than any client sends.

    Headers after the body are dropped: uvicorn would add them to those that the request is judged by.
    """

    _head_bytes = 0
    _in_head = False
    _is_too_large = False

    def data_received(self, data: bytes) -> None:
        # The parser holds what is not a whole header yet: bytes count as they come, until something came of them.
        self._head_bytes += len(data)
        super().data_received(data)
        if self._head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
            self._is_too_large = True
            self.send_400_response("")

    def on_message_begin(self) -> None:
        self._in_head = True
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._in_head:
            return
        if len(self.headers) >= MAX_HEADERS:
            self._is_too_large = True
            raise ValueError("too many headers")  # ends the parsing, upon which uvicorn answers with what is below
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._head_bytes = 0
        self._in_head = False
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._head_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._head_bytes = 0
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        error = (
            HeadTooLarge(
                f"the request has more than {MAX_HEADERS} headers or {MAX_HEAD_BYTES} bytes of them; send less"
            )
            if self._is_too_large
            else BadRequest("this is no HTTP request")
        )
        content = error_body(error)
        headers = {**error_headers(error), "content-length": str(len(content)), "connection": "close"}
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        self.transport.write(STATUS_LINE[error.status] + lines.encode() + b"\r\n" + content)
        self.transport.close()
