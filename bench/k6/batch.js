// BatchClassify: batches of SIZE pictures at a constant rate of arrivals.
//   k6 run --env TARGET=localhost:50051 --env IMAGE=$PWD/slice.jpg --env RATE=4 --env SIZE=8 bench/k6/batch.js
import encoding from "k6/encoding";
import grpc from "k6/net/grpc";
import { check } from "k6";
import { Counter } from "k6/metrics";

const target = __ENV.TARGET || "127.0.0.1:50051";
const rate = Number(__ENV.RATE || 4);
const image = encoding.b64encode(open(__ENV.IMAGE, "b"));
const items = new Array(Number(__ENV.SIZE || 8)).fill({ image: image });
const answered = new Counter("pictures_answered");
const wrong = new Counter("wrong_answers");
const client = new grpc.Client();
let connected = false;

export const options = {
  scenarios: {
    arrivals: {
      executor: "constant-arrival-rate",
      rate: rate,
      timeUnit: "1s",
      duration: __ENV.DURATION || "10s",
      preAllocatedVUs: Math.max(4, 2 * rate),
      maxVUs: Math.max(16, 4 * rate),
    },
  },
  summaryTrendStats: ["min", "med", "p(90)", "p(99)", "max"],
  thresholds: { checks: ["rate>0.999"], wrong_answers: ["count==0"], dropped_iterations: ["count==0"] },
};

export default function () {
  if (!connected) {
    client.connect(target, { plaintext: true, reflect: true });
    connected = true;
  }
  const reply = client.invoke("neurogate.v1.ClassificationService/BatchClassify", { items: items });
  if (check(reply, { "status is OK": (found) => found && found.status === grpc.StatusOK })) {
    const results = reply.message.results;
    answered.add(results.length);
    // It is the same picture every time, so all answers of a batch are the same.
    const same = (result) => result.classification && best(result) === best(results[0]);
    if (results.length !== items.length || !results.every(same)) wrong.add(1);
  }
}

function best(result) {
  const score = result.classification.scores[0];
  return score.classId + " " + score.probability.toFixed(3);
}
