// Starts `tigerchat dev` on free ports with data that nobody keeps, and says where its page is.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { createInterface } from "node:readline";

const READY_MS = 15000;

export async function startServer() {
  const binary = process.env.TIGERCHAT ?? new URL("../../../target/release/tigerchat", import.meta.url).pathname;
  const started = performance.now();
  const child = spawn(binary, ["dev", "--ephemeral", "--port", "0", "--line-port", "0"], { stdio: ["ignore", "pipe", "inherit"] });
  const url = await new Promise((resolve, reject) => {
    const timer = setTimeout(() => reject(new Error(`no page after ${READY_MS} ms`)), READY_MS);
    child.once("error", reject);
    child.once("exit", (code) => reject(new Error(`tigerchat dev ended with ${code}`)));
    const said = [];
    createInterface({ input: child.stdout }).on("line", (line) => {
      said.push(line);
      const [found] = line.match(/http:\/\/(127\.0\.0\.1|localhost):\d+\//) ?? [];
      if (!found) return;
      clearTimeout(timer);
      resolve(found);
    });
  });
  return { url, child, ready: performance.now() - started, stop: () => stop(child) };
}

async function stop(child) {
  if (child.exitCode !== null) return child.exitCode;
  child.kill("SIGINT");
  const [code] = await once(child, "exit");
  return code;
}
