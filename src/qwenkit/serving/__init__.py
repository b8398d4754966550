"""The server: one request inside, the APIs that clients speak outside.

| file                | what it holds                                                                   |
| ------------------- | ------------------------------------------------------------------------------- |
| `request.py`        | what is asked, and the events that an answer consists of: the internal form     |
| `refusals.py`       | why a request is refused, in no API's form yet                                  |
| `answer_events.py`  | from the engine's deltas to those events                                        |
| `prompts.py`        | from a prompt of the internal form to what the engine reads                     |
| `json_body.py`      | the body of a request as JSON, with its limits                                  |
| `fields.py`         | the fields of a body: known, checked, refused by name                           |
| `faces/`            | a pure codec for each API: body to request, events to response                  |
| `codecs.py`         | which codec answers at which path                                               |
| `app.py`            | the application: routes that generate, and those that tell how the server is    |
| `routes.py`         | models, token ids, vectors                                                      |
| `openapi.py`        | the served schema; `response_schemas.py` has the shapes of responses             |
| `reading.py`        | what all routes do with a body                                                  |
| `answering.py`      | from a request to its events, on the engine of a model                          |
| `models.py`         | the models by their names, loaded and unloaded                                  |
| `adapter_routes.py` | adapters loaded and unloaded over HTTP                                          |
| `served_model.py`   | a model in memory: engine, tokenizer, prompts as token ids                      |
| `certificates.py`   | whether a model still says what its certificate tells                           |
| `front.py`          | what every request passes before a route, and how it ends                       |
| `visit.py`          | one HTTP request: its id, its client, what it holds                             |
| `guard.py`          | names, pages and addresses: who may reach the server                            |
| `keys.py`           | keys, what their owners may take, the salts of the cache                        |
| `limits.py`         | requests at a time and a minute, tokens a minute                                |
| `metrics.py`        | figures for Prometheus                                                          |
| `log.py`            | the log, a JSON object a line                                                   |
| `settings.py`       | where a server listens, and every limit                                         |
| `server.py`         | the socket, the start, the signals, the end                                     |
| `connection.py`     | one connection, whose waits end                                                 |
| `load/`             | the client that measures a server under load, this one or another               |
| `page/`             | the chat page, on gradio                                                        |
"""
