// StreamClassify: each user streams PICTURES pictures and waits for all answers, each of which must come exactly once.
//   k6 run --env TARGET=localhost:50051 --env IMAGE=slice.jpg --env USERS=2 bench/k6/stream.js
import encoding from "k6/encoding";
import { Client, Stream } from "k6/net/grpc";
import { Counter } from "k6/metrics";

const target = __ENV.TARGET || "127.0.0.1:50051";
const pictures = Number(__ENV.PICTURES || 64);
const image = encoding.b64encode(open(__ENV.IMAGE, "b"));
const answered = new Counter("pictures_answered");
const wrong = new Counter("wrong_answers");
const client = new Client();
let connected = false;

export const options = {
  scenarios: {
    streams: {
      executor: "per-vu-iterations",
      vus: Number(__ENV.USERS || 2),
      iterations: Number(__ENV.ROUNDS || 4),
      maxDuration: "5m",
    },
  },
  summaryTrendStats: ["min", "med", "p(90)", "p(99)", "max"],
  thresholds: { wrong_answers: ["count==0"] },
};

export default function () {
  if (!connected) {
    client.connect(target, { plaintext: true, reflect: true });
    connected = true;
  }
  const stream = new Stream(client, "neurogate.v1.ClassificationService/StreamClassify");
  const seen = {};
  let count = 0;
  stream.on("data", (reply) => {
    if (seen[reply.key] || !reply.classification) wrong.add(1);
    seen[reply.key] = true;
    answered.add(1);
    count += 1;
  });
  stream.on("error", () => wrong.add(1));
  stream.on("end", () => {
    if (count !== pictures) wrong.add(1);
    client.close();
    connected = false;
  });
  for (let number = 0; number < pictures; number += 1) {
    stream.write({ key: String(number), image: image });
  }
  stream.end();
}
