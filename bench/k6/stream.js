// StreamClassify: streams of PICTURES pictures begin at a constant rate, whatever became of the ones before; every picture
// must be answered exactly once, and all of a stream by one version.
//   k6 run --env TARGET=localhost:50051 --env IMAGE=$PWD/slice.jpg --env RATE=30 --env DURATION=10s bench/k6/stream.js
import encoding from "k6/encoding";
import { Client, Stream } from "k6/net/grpc";
import { Counter, Trend } from "k6/metrics";

const target = __ENV.TARGET || "127.0.0.1:50051";
const pictures = Number(__ENV.PICTURES || 64);
// Streams in ten seconds: a rate of whole numbers, as k6 wants it.
const rate = Number(__ENV.RATE || 5);
const image = encoding.b64encode(open(__ENV.IMAGE, "b"));
const answered = new Counter("pictures_answered");
const wrong = new Counter("wrong_answers");
const duration = new Trend("stream_duration", true);
const client = new Client();
let connected = false;

export const options = {
  scenarios: {
    streams: {
      executor: "constant-arrival-rate",
      rate: rate,
      timeUnit: "10s",
      duration: __ENV.DURATION || "20s",
      gracefulStop: "60s",
      preAllocatedVUs: Math.max(8, 2 * rate),
      maxVUs: Math.max(16, 4 * rate),
    },
  },
  summaryTrendStats: ["min", "med", "p(90)", "p(99)", "max"],
  thresholds: { wrong_answers: ["count==0"], dropped_iterations: ["count==0"] },
};

export default function () {
  if (!connected) {
    client.connect(target, { plaintext: true, reflect: true });
    connected = true;
  }
  const begun = Date.now();
  const stream = new Stream(client, "neurogate.v1.ClassificationService/StreamClassify");
  const seen = {};
  let count = 0;
  let version = null;
  stream.on("data", (reply) => {
    if (seen[reply.key] || !reply.classification) {
      wrong.add(1);
      return;
    }
    seen[reply.key] = true;
    version = version || reply.model.version;
    if (reply.model.version !== version) wrong.add(1);
    answered.add(1);
    count += 1;
  });
  stream.on("error", () => wrong.add(1));
  stream.on("end", () => {
    if (count !== pictures) wrong.add(1);
    duration.add(Date.now() - begun);
  });
  for (let number = 0; number < pictures; number += 1) {
    stream.write({ key: String(number), image: image });
  }
  stream.end();
}
