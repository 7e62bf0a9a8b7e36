// The same server on Node's `ws`: JSON parsed for every message, and written once for all members of a broadcast.
import { WebSocketServer } from "ws";

const members = new Set();

const events = {
  echo(socket, { payload }) {
    socket.send(JSON.stringify({ type: "event", event: "echo", payload }));
  },
  join(socket, { id }) {
    members.add(socket);
    socket.send(JSON.stringify({ type: "ack", id }));
  },
  pub(socket, { payload }) {
    const message = JSON.stringify({ type: "event", event: "pub", payload });
    for (const member of members) member.send(message);
  },
};

const server = new WebSocketServer({
  host: "127.0.0.1",
  port: Number(process.argv[2]),
  perMessageDeflate: false,
  maxPayload: 65536,
});

server.on("connection", (socket) => {
  socket.on("error", () => {}); // `ws` closes it
  socket.on("close", () => members.delete(socket));
  socket.on("message", (data) => {
    const message = JSON.parse(data);
    if (typeof message.payload?.text === "string") events[message.event]?.(socket, message);
  });
});
