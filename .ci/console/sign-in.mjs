// Signing in without a key: by a certified identity provider (npm oidc-provider), and by an admin's link.
import { Provider } from 'oidc-provider';
import { findings } from './crawl.mjs';

const assert = (holds, what) => {
  if (!holds) throw new Error(what);
};

// The provider with its own pages to log in and to consent, on another site than the console: browsers send it no cookie of ours, and
// ours are sent on the way back because it is a link that is followed. Whose name begins with 'boss' is in the group of bosses.
export const identityProvider = async (settings) => {
  const { port } = settings.issuer;
  const redirect = `${settings.proxied}/sign-in/return`;
  const common = { redirect_uris: [redirect], response_types: ['code'], grant_types: ['authorization_code'] };
  const provider = new Provider(`http://localhost:${port}`, {
    clients: [
      { ...common, client_id: 'console', client_secret: 'only for this check' },
      { ...common, client_id: 'public', token_endpoint_auth_method: 'none' },
    ],
    // The groups stand in the ID token, and not only at the userinfo endpoint.
    conformIdTokenClaims: false,
    claims: { openid: ['sub'], groups: ['groups'] },
    findAccount: (_, id) => ({
      accountId: id,
      claims: () => ({ sub: id, groups: id.startsWith('boss') ? ['bosses'] : [] }),
    }),
  });
  return new Promise((listening) => {
    const server = provider.listen(port, '127.0.0.1', () => listening(server));
  });
};

// Fails on what the browser says about our own pages; those of the provider are its own affair.
const listen = (page, base, complain) => {
  const own = new URL(base).origin;
  page.on('console', (message) => {
    if (message.type() === 'error' && page.url().startsWith(own)) complain(page.url(), `console: ${message.text()}`);
  });
  page.on('pageerror', (error) => page.url().startsWith(own) && complain(page.url(), `script: ${error.message}`));
};

// From the console's page to sign in at, over the provider's pages, and back. Where the browser was sent to is the answer.
const signIn = async (page, base, link, login) => {
  const returned = [];
  page.on('request', (request) => request.url().includes('/sign-in/return?') && returned.push(request.url()));
  await page.goto(`${base}/keys`);
  await page.click(`a:has-text("${link}")`);
  await page.fill('input[name=login]', login);
  await page.fill('input[name=password]', 'anything');
  await page.click('button[type=submit]');
  await page.click('button[type=submit]:has-text("Continue")');
  await page.waitForURL((url) => url.href.startsWith(base) && !url.pathname.includes('sign-in'));
  return returned.at(-1);
};

export const signIns = {
  'a sign-in by a certified identity provider': async ({ settings, open, axe, complain }) => {
    const base = settings.proxied;
    const context = await open();
    const page = await context.newPage();
    listen(page, base, complain);
    await page.goto(`${base}/sign-in`);
    for (const wrong of await findings(page, axe)) complain('the page to sign in at', wrong);
    for (const width of [360, 1280]) {
      await page.setViewportSize({ width, height: 800 });
      await page.screenshot({ path: `${settings.pictures}/sign-in-with-providers-${width}.png`, fullPage: true });
    }
    const returned = await signIn(page, base, 'Company <account>', 'boss-nova');
    assert(page.url() === `${base}/keys`, `one comes back to ${page.url()}`);
    assert((await page.textContent('body')).includes('boss-nova'), 'one is somebody else');
    const cookies = await context.cookies();
    const session = cookies.find(({ name }) => name === 'tollgate');
    assert(session?.httpOnly && session.sameSite === 'Lax', `the cookie is ${JSON.stringify(session)}`);
    assert(!cookies.some(({ name }) => name === 'tollgate-login'), 'the sign-in is not over');
    await page.click('nav >> text=People');
    await page.waitForSelector('h1:has-text("People")');
    await page.goto(`${base}/sessions`);
    await page.waitForSelector('text=This one');
    for (const wrong of await findings(page, axe)) complain('sessions', wrong);

    // The same answer once more, here and in the browser of somebody else.
    for (const [where, words] of [[context, 'not begun in this browser'], [await open(), 'not begun in this browser']]) {
      const again = await where.newPage();
      const answer = await again.goto(returned);
      assert(answer.status() === 401, `a replay is answered ${answer.status()}`);
      assert((await again.textContent('main')).includes(words), await again.textContent('main'));
      for (const wrong of await findings(again, axe)) complain('a sign-in that is refused', wrong);
    }
    await page.click('text=Sign out');
    await page.waitForSelector('input[name=credential]');
  },

  'a sign-in by a client without a secret, without scripts': async ({ settings, open, complain }) => {
    const page = await (await open({ javaScriptEnabled: false })).newPage();
    listen(page, settings.proxied, complain);
    await signIn(page, settings.proxied, 'Public client', 'member-nova');
    assert((await page.textContent('body')).includes('member-nova'), 'one is somebody else');
    assert(!(await page.locator('nav >> text=People').count()), 'a member manages nobody');
  },

  'a sign-in that is broken off at the provider': async ({ settings, open }) => {
    const page = await (await open()).newPage();
    await page.goto(`${settings.proxied}/sign-in`);
    await page.click('a:has-text("Company")');
    await page.click('text=Cancel');
    await page.waitForURL((url) => url.href.startsWith(settings.proxied));
    assert((await page.textContent('main')).includes('broken the sign-in off'), await page.textContent('main'));
  },

  'a session ends with its provider': async ({ settings, open }) => {
    const page = await (await open()).newPage();
    await signIn(page, settings.proxied, 'Public client', 'soon-gone');
    const suspended = await fetch(`${settings.adminUrl}/admin/v1/identity-providers/${settings.issuer.providers[1]}`, {
      method: 'PATCH',
      headers: { authorization: `Bearer ${settings.operator}`, 'content-type': 'application/json' },
      body: JSON.stringify({ suspended: true }),
    });
    assert(suspended.ok, `it was not suspended: ${suspended.status}`);
    const end = Date.now() + 10_000;
    while (!(await page.locator('input[name=credential]').count())) {
      assert(Date.now() < end, 'the session goes on');
      await page.reload();
    }
    assert(!(await page.locator('a:has-text("Public client")').count()), 'it is still offered');
  },

  'an admin lets somebody in by a link': async ({ settings, open, signIn, axe, complain }) => {
    const storageState = await signIn(settings.data, settings.admin.api_key);
    const page = await (await open({ storageState })).newPage();
    listen(page, settings.data, complain);
    await page.goto(`${settings.data}/people`);
    await page.fill('#user-name', `guest ${Date.now()}`);
    await page.click('text=Create and invite');
    const link = await page.textContent('.secret code');
    for (const wrong of await findings(page, axe)) complain('a link', wrong);
    await page.screenshot({ path: `${settings.pictures}/walk-invitation.png`, fullPage: true });
    const guest = await (await open()).newPage();
    listen(guest, settings.data, complain);
    await guest.goto(link);
    await guest.click('text=Open the console');
    await guest.waitForSelector('h1:has-text("Start")');
    const late = await (await open()).newPage();
    await late.goto(link);
    await late.click('text=Open the console');
    assert((await late.textContent('main')).includes('used already'), 'the link works twice');
  },
};
