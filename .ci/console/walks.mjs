// What people do in the console. Each walk throws, or complains, if it does not end as it should.
import http from 'node:http';
import { findings, listen } from './crawl.mjs';

const assert = (holds, what) => {
  if (!holds) throw new Error(what);
};

const call = async (settings, method, path, key, body) => {
  const answer = await fetch(`${settings.dataUrl}${path}`, {
    method,
    headers: { authorization: `Bearer ${key}`, 'content-type': 'application/json' },
    body: body && JSON.stringify(body),
  });
  return answer.json();
};

// The ids of the member's newest clips.
const clips = async (settings) => {
  const { data } = await call(settings, 'GET', '/api/tasks?limit=50', settings.member.api_key);
  return data.tasks.map(({ task_id }) => task_id);
};

const boughtSince = async (settings, before) => (await clips(settings)).filter((id) => !before.includes(id)).length;

// To the price of a prompt in the playground.
const priced = async (page, base, prompt) => {
  await page.goto(`${base}/playground?type=std-text-to-video`);
  await page.fill('#prompt', prompt);
  await page.waitForSelector('#price button[value=create]:not([disabled])');
};

export const walks = {
  // No documentation is read: everything that is clicked can be seen.
  'the walk of a newcomer': async ({ settings, open, axe, complain }) => {
    const page = await (await open()).newPage();
    listen(page, settings.data, settings.mediaHosts, complain);
    await page.goto(settings.link);
    await page.click('text=Open the console');
    await page.waitForSelector('h1:has-text("Start")');
    await page.click('nav >> text=Playground');
    await page.fill('#prompt', 'A lighthouse that counts ships');
    await page.waitForSelector('#price button[value=create]:not([disabled])');
    const price = await page.textContent('#price .price');
    assert(/[1-9]/.test(price), `the price is ${price}`);
    for (const wrong of await findings(page, axe)) complain('playground with a price', wrong);
    await page.setViewportSize({ width: 1280, height: 720 });
    await page.screenshot({ path: `${settings.pictures}/walk-playground.png` });
    await page.click('#price button[value=create]');
    await page.waitForSelector('video, a:has-text("video")', { timeout: 60_000 });
    for (const wrong of await findings(page, axe)) complain('a finished clip', wrong);
    await page.screenshot({ path: `${settings.pictures}/walk-clip.png`, fullPage: true });
    await page.click('nav >> text=Start');
    await page.waitForSelector('h2:has-text("Your newest clip")');
    await page.screenshot({ path: `${settings.pictures}/walk-start.png`, fullPage: true });
    await page.click('nav >> text=Keys');
    await page.waitForSelector('h1');
    await page.click('nav >> text=Usage');
    await page.waitForSelector('table');
    assert((await page.textContent('main')).includes(price.match(/[\d,.\s]+/)[0].trim()), 'the usage does not show the price');
    await page.click('text=Sign out');
    await page.waitForSelector('input[name=credential]');
  },

  // What reads can be executed from the pages about the APIs; what buys or changes cannot.
  'the documents buy nothing': async ({ settings, open, complain }) => {
    const [proxied] = settings.roles.filter(({ role }) => role === 'proxied');
    for (const [base, title, refused, allowed] of [
      [settings.dataUrl, 'Tollgate API', 'generate', 'quote'],
      [proxied.base.replace('/console', ''), 'Tollgate API', 'generate', 'credits'],
      [settings.adminUrl, 'Tollgate management API', 'grant_credits', 'list_orgs'],
    ]) {
      const page = await (await open()).newPage();
      listen(page, `${base}/docs/`, [], complain);
      await page.goto(`${base}/docs/`);
      await page.waitForSelector('.opblock');
      assert((await page.title()) === title, `its title is ${await page.title()}`);
      for (const [operation, buttons] of [[refused, 0], [allowed, 1]]) {
        const block = page.locator(`.opblock[id$="-${operation}"]`);
        await block.locator('.opblock-summary-control').click();
        await block.locator('.opblock-body').waitFor();
        const found = await block.locator('.try-out__btn').count();
        assert(found === buttons, `${operation} has ${found} buttons that execute it`);
      }
      if (title === 'Tollgate API') {
        const kinds = await page.locator('.opblock[id$="-generate"] .examples-select option').count();
        assert(kinds === 6, `a create has ${kinds} examples`);
        await page.click('a:has-text("The playground shows the price first")');
        await page.waitForURL(/sign-in|playground/);
        await page.goBack();
      }
      await page.evaluate(() => scrollTo(0, 0));
      await page.screenshot({ path: `${settings.pictures}/docs-${title.replaceAll(' ', '-')}.png` });
    }
  },

  'a form that is refused keeps what was typed': async ({ settings, open, signIn, axe, complain }) => {
    const storageState = await signIn(settings.data, settings.admin.api_key);
    const page = await (await open({ storageState })).newPage();
    await page.goto(`${settings.data}/keys`);
    await page.fill('#new-name', 'a key that is kept');
    await page.click('text=Limit what it may do');
    await page.fill('#new-networks', 'nowhere');
    await page.click('text=Create the key');
    await page.waitForSelector('#wrong');
    assert((await page.inputValue('#new-name')) === 'a key that is kept', 'the name is lost');
    assert(await page.isVisible('#new-networks[aria-invalid=true]'), 'one does not see which field is wrong');
    for (const wrong of await findings(page, axe)) complain('a refused form', wrong);
    await page.screenshot({ path: `${settings.pictures}/walk-refused.png`, fullPage: true });
  },

  'a double click, a reload and the back button buy one clip': async ({ settings, open, signIn, complain }) => {
    const storageState = await signIn(settings.data, settings.member.api_key);
    const page = await (await open({ storageState })).newPage();
    listen(page, settings.data, settings.mediaHosts, complain);
    const before = await clips(settings);
    await priced(page, settings.data, `bought once ${Date.now()}`);
    await page.dblclick('#price button[value=create]');
    await page.waitForURL(/clips/);
    await page.reload();
    await page.goBack();
    const again = page.locator('#price button[value=create]:not([disabled])');
    if (await again.count()) {
      await again.first().click();
      await page.waitForLoadState();
    }
    const bought = await boughtSince(settings, before);
    assert(bought === 1, `${bought} clips were bought`);
  },

  'everything without scripts': async ({ settings, open, signIn }) => {
    const storageState = await signIn(settings.data, settings.member.api_key);
    const page = await (await open({ storageState, javaScriptEnabled: false })).newPage();
    const before = await clips(settings);
    await page.goto(`${settings.data}/playground?type=std-text-to-video`);
    await page.fill('#prompt', `without scripts ${Date.now()}`);
    await page.click('#price button[value=price]');
    await page.click('#price button[value=create]');
    await page.waitForURL(/clips/);
    const bought = await boughtSince(settings, before);
    assert(bought === 1, `${bought} clips were bought`);
  },

  'the keyboard alone': async ({ settings, open }) => {
    const page = await (await open()).newPage();
    await page.goto(settings.data);
    // The browser gives the field its focus when it next draws, which may be after the page is loaded.
    await page.waitForFunction(() => document.activeElement.name === 'credential');
    await page.keyboard.type(settings.member.api_key);
    await page.keyboard.press('Enter');
    await page.waitForSelector('h1:has-text("Start")');
    const reached = new Set();
    for (let step = 0; step < 60; step += 1) {
      await page.keyboard.press('Tab');
      const here = await page.evaluate(() => {
        const at = document.activeElement;
        if (at === document.body) return null;
        // The controls of a video are within it: the box around it shows that one is there.
        const style = getComputedStyle(at.tagName === 'VIDEO' ? at.parentElement : at);
        const shows = style.outlineStyle !== 'none' || style.boxShadow !== 'none';
        return { text: at.textContent.trim().slice(0, 30) || at.name || at.tagName, shows };
      });
      if (!here) break;
      assert(here.shows, `one does not see that ${here.text} has the focus`);
      reached.add(here.text);
    }
    for (const wanted of ['Playground', 'Clips', 'Keys', 'Usage', 'Sign out']) {
      assert([...reached].some((text) => text.includes(wanted)), `${wanted} cannot be reached: ${[...reached]}`);
    }
  },

  'a revoked key ends its sessions': async ({ settings, open, signIn }) => {
    const storageState = await signIn(settings.data, settings.spare.api_key);
    const page = await (await open({ storageState })).newPage();
    await page.goto(settings.data);
    await page.waitForSelector('h1:has-text("Start")');
    const revoked = await fetch(`${settings.adminUrl}/admin/v1/keys/${settings.spare.key_id}/revoke`, {
      method: 'POST',
      headers: { authorization: `Bearer ${settings.operator}` },
    });
    assert(revoked.ok, `the key was not revoked: ${revoked.status}`);
    const end = Date.now() + 10_000;
    while (!(await page.locator('input[name=credential]').count())) {
      assert(Date.now() < end, 'the session goes on');
      await page.reload();
    }
  },

  'a page of another origin cannot send its forms': async ({ settings, open, signIn }) => {
    const storageState = await signIn(settings.data, settings.member.api_key);
    const page = await (await open({ storageState })).newPage();
    const hostile = http.createServer((_, answer) => {
      answer.setHeader('content-type', 'text/html');
      answer.end(`<form method="post" action="${settings.data}/keys"><input name="name" value="stolen"><button>x</button></form>`);
    });
    await new Promise((listening) => hostile.listen(0, '127.0.0.1', listening));
    try {
      await page.goto(`http://127.0.0.1:${hostile.address().port}/`);
      const [answer] = await Promise.all([page.waitForNavigation(), page.click('button')]);
      assert(answer.status() >= 400 || !(await page.locator('text=stolen').count()), `answered ${answer.status()}`);
    } finally {
      hostile.close();
    }
  },
};
