// Walks through every page of a console that one role can reach, in both themes, at three widths, with scripts and without.
// Fails on: an answer that is no page, a policy violation, an error in the console of the browser, a request to another origin,
// something that sticks out of the page, a serious finding of axe. Writes a picture of each page.
import fs from 'node:fs';
import path from 'node:path';

const WIDTHS = [360, 768, 1920];
// Of pages that differ only in what they show, so many are looked at.
const OF_A_KIND = 2;
// The links of a page that end the session, or answer with a file.
const LEFT_OUT = /sign-?out|\/video$|\.(csv|mp4|json)(\?|$)|format=csv/;

const kind = (address, base) => {
  const { pathname, searchParams } = new URL(address);
  const place = pathname.slice(new URL(base).pathname.length);
  return `${place.replace(/[a-z]+_[0-9a-f]{32}/g, ':id').replace(/\d{2,}/g, ':n')}?${[...searchParams.keys()].sort()}`;
};

// What a browser itself says about a page, while it is looked at.
export const listen = (page, base, mediaHosts, complain) => {
  const own = new URL(base).origin;
  page.on('console', (message) => {
    if (message.type() === 'error') complain(page.url(), `console: ${message.text()}`);
  });
  page.on('pageerror', (error) => complain(page.url(), `script: ${error.message}`));
  page.on('request', (request) => {
    const address = new URL(request.url());
    if (address.protocol === 'data:' || address.protocol === 'blob:' || address.origin === own) return;
    if (request.resourceType() === 'media' && mediaHosts.includes(address.origin)) return;
    complain(page.url(), `asks another origin: ${address.origin}`);
  });
};

// WCAG 2.2, level AA.
export const findings = async (page, axe) => {
  await page.evaluate(axe);
  return page.evaluate(async () => {
    const tags = ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa'];
    const { violations } = await globalThis.axe.run(document, { runOnly: { type: 'tag', values: tags } });
    return violations
      .filter(({ impact }) => impact === 'serious' || impact === 'critical')
      .map(({ id, nodes }) => `${id}: ${nodes.slice(0, 3).map(({ html }) => html.slice(0, 160)).join(' | ')}`);
  });
};

const shape = (page) =>
  page.evaluate(() => {
    const wrong = [];
    const root = document.documentElement;
    if (root.scrollWidth > root.clientWidth + 1) wrong.push(`it is ${root.scrollWidth} wide at ${root.clientWidth}`);
    if (document.querySelectorAll('h1').length !== 1) wrong.push(`it has ${document.querySelectorAll('h1').length} h1`);
    if (!document.title.trim()) wrong.push('it has no title');
    if (!root.lang) wrong.push('it names no language');
    for (const link of document.querySelectorAll('a[href]')) {
      if (!/^https?:$/.test(link.protocol)) wrong.push(`a link with ${link.protocol}`);
    }
    if (document.querySelector('[style], style, script:not([src])')) wrong.push('it has styles or scripts of its own');
    return wrong;
  });

const links = (page) => page.$$eval('a[href]', (all) => all.filter((a) => !a.hasAttribute('download')).map((a) => a.href));

// Every page that links lead to from `base`; `open` makes a signed-in context.
export const crawl = async ({ role, base, open, axe, pictures, mediaHosts, complain }) => {
  const seen = new Map();
  const found = [base];
  const queue = [base];
  const context = await open({ colorScheme: 'light' });
  const page = await context.newPage();
  listen(page, base, mediaHosts, complain);
  while (queue.length) {
    const address = queue.shift();
    const answer = await page.goto(address);
    if (!answer || answer.status() >= 400) {
      complain(address, `${role}: answered ${answer?.status()}`);
      continue;
    }
    const policy = answer.headers()['content-security-policy'] ?? '';
    if (!policy.includes("default-src 'none'") || policy.includes('unsafe')) complain(address, `its policy is ${policy}`);
    for (const wanted of ['referrer-policy', 'x-content-type-options', 'cross-origin-opener-policy']) {
      if (!answer.headers()[wanted]) complain(address, `no ${wanted}`);
    }
    for (const link of await links(page)) {
      const bare = link.split('#')[0];
      if (!(bare === base || bare.startsWith(`${base}/`) || bare.startsWith(`${base}?`)) || LEFT_OUT.test(bare) || found.includes(bare)) continue;
      const like = kind(bare, base);
      const count = seen.get(like) ?? 0;
      if (count >= OF_A_KIND) continue;
      seen.set(like, count + 1);
      found.push(bare);
      queue.push(bare);
    }
  }
  await context.close();
  for (const look of [{ colorScheme: 'light' }, { colorScheme: 'dark' }, { colorScheme: 'light', javaScriptEnabled: false }]) {
    const scripts = look.javaScriptEnabled !== false;
    const form = scripts ? look.colorScheme : 'no-scripts';
    const context = await open(look);
    const page = await context.newPage();
    listen(page, base, mediaHosts, complain);
    for (const address of found) {
      for (const width of scripts ? WIDTHS : [1280]) {
        await page.setViewportSize({ width, height: 900 });
        await page.goto(address);
        const where = `${role} ${form} ${width} ${kind(address, base)}`;
        if (scripts) {
          for (const wrong of await shape(page)) complain(where, wrong);
          if (width !== 768) for (const wrong of await findings(page, axe)) complain(where, wrong);
        }
        const name = kind(address, base).replace(/[^a-z0-9:-]+/gi, '_').replace(/^_+|_+$/g, '') || 'start';
        const file = path.join(pictures, `${role}-${name}-${form}-${width}.png`.replaceAll(':', ''));
        if (!fs.existsSync(file)) await page.screenshot({ path: file, fullPage: true });
      }
    }
    await context.close();
  }
  return found.length;
};
