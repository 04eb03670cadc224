// The console in a browser: `node main.mjs settings.json`. The settings name the roles with their addresses and credentials, and
// where pictures go. Words behind them: only the roles of these names, and the walks whose names have one of them.
import fs from 'node:fs';
import http from 'node:http';
import { createRequire } from 'node:module';
import { chromium } from 'playwright-core';
import { crawl } from './crawl.mjs';
import { identityProvider, signIns } from './sign-in.mjs';
import { walks } from './walks.mjs';

const words = process.argv.slice(3);
const settings = JSON.parse(fs.readFileSync(process.argv[2], 'utf8'));
const axe = fs.readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');
const complaints = new Set();
const complain = (where, what) => complaints.add(`${where}: ${what}`);

const browser = await chromium.launch({ executablePath: settings.chromium, args: ['--no-sandbox'] });

// A proxy that takes a path away, as before a gateway that shares its name with other services.
const proxy = http.createServer((request, answer) => {
  const { path, target } = settings.proxy;
  if (!request.url.startsWith(path)) {
    complain(request.url, 'leaves the path of the proxy');
    answer.writeHead(404).end();
    return;
  }
  const options = { method: request.method, headers: request.headers };
  const onward = http.request(target + request.url.slice(path.length), options, (from) => {
    answer.writeHead(from.statusCode, from.headers);
    from.pipe(answer);
  });
  onward.on('error', () => answer.destroy());
  request.pipe(onward);
});
await new Promise((listening) => proxy.listen(settings.proxy.port, '127.0.0.1', listening));
const provider = await identityProvider(settings);

// Signs in by the form, as a person does, and keeps the cookie for other contexts of the same role.
const signIn = async (base, credential) => {
  const context = await browser.newContext();
  const page = await context.newPage();
  await page.goto(base);
  await page.fill('input[name=credential]', credential);
  await Promise.all([page.waitForURL((url) => !url.pathname.includes('sign-in')), page.click('form button.main')]);
  const state = await context.storageState();
  await context.close();
  return state;
};

// Where a walk that failed had come to: what a person would have read there.
const shown = async (page) => {
  const text = await page.locator('body').innerText({ timeout: 5_000 }).catch((error) => error.message);
  return `it ended at ${page.url()}: ${text.replace(/\s+/g, ' ').slice(0, 400)}`;
};

try {
  fs.mkdirSync(settings.pictures, { recursive: true });
  // First: a sign-in link does not last long.
  for (const [name, walk] of Object.entries({ ...walks, ...signIns })) {
    if (words.length && !words.some((word) => name.includes(word))) continue;
    const contexts = [];
    const open = async (look = {}) => {
      contexts.push(await browser.newContext(look));
      return contexts.at(-1);
    };
    try {
      await walk({ settings, open, signIn, axe, complain: (where, what) => complain(`${name}: ${where}`, what) });
      console.log(`${name}: walked`);
    } catch (error) {
      complain(name, error.message.split('\n').slice(0, 12).join(' / '));
      for (const page of contexts.flatMap((context) => context.pages())) complain(name, await shown(page));
    }
    for (const context of contexts) await context.close();
  }
  for (const { role, base, credential } of settings.roles) {
    if (words.length && !words.includes(role)) continue;
    const storageState = await signIn(base, credential);
    const open = (look) => browser.newContext({ storageState, ...look });
    const mediaHosts = settings.mediaHosts;
    const pages = await crawl({ role, base, open, axe, pictures: settings.pictures, mediaHosts, complain });
    console.log(`${role}: ${pages} pages`);
  }
} finally {
  proxy.close();
  proxy.closeAllConnections();
  provider.close();
  provider.closeAllConnections();
  await browser.close();
}
for (const complaint of complaints) console.log(complaint);
console.log(complaints.size ? `${complaints.size} complaints` : 'nothing to complain about');
process.exit(complaints.size ? 1 : 0);
