"""What scripts/pages does in the browser: PAGE REPORT [SCREENSHOT]."""

import shutil
import subprocess
import sys
from urllib.parse import urlsplit

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import sync_playwright

PAGE, REPORT, SCREENSHOT = sys.argv[1:4]
SCREENS = [(scheme, size) for scheme in ("light", "dark") for size in ((1280, 900), (360, 740))]
# A mount locks within its heartbeat and one second; a browser on a busy machine is given more.
PATIENCE = 30_000


def key(verb):
    subprocess.run(["bash", "-c", f"key {verb}"], check=True)


def state(page, wanted):
    page.wait_for_function(
        "wanted => document.getElementById('state').dataset.state === wanted", arg=wanted, timeout=PATIENCE
    )


def check(page, what):
    """axe-core finds nothing, and the page is no wider than its screen."""
    found = Axe().run(page).response["violations"]
    for violation in found:
        nodes = "; ".join(node["html"][:120] for node in violation["nodes"][:3])
        print(f"{what}: {violation['id']} ({violation['impact']}): {violation['help']}: {nodes}")
    wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    if wide > 0:
        print(f"{what}: it is {wide} pixels too wide")
    return len(found) + (wide > 0)


def opened(browser, url, scheme, size, asked):
    context = browser.new_context(color_scheme=scheme, viewport=dict(zip(("width", "height"), size)))
    page = context.new_page()
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: asked.append(f"error: {error}"))
    page.goto(url)
    return page


def by_keyboard(page):
    """The button can be reached and pressed without a mouse."""
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    return page.get_attribute("#pause", "aria-pressed") == "true"


def main():
    wrong, asked = 0, []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        for scheme, size in SCREENS:
            for url in (PAGE, REPORT):
                page = opened(browser, url, scheme, size, asked)
                if url == PAGE:
                    state(page, "open")
                wrong += check(page, f"{url} {scheme} {size[0]}")
                page.context.close()
        page = opened(browser, PAGE, "light", SCREENS[0][1], asked)
        state(page, "open")
        key("disable")
        state(page, "revoked")
        wrong += check(page, f"{PAGE} revoked")
        key("enable")
        state(page, "open")
        page.wait_for_timeout(5000)
        if SCREENSHOT:
            page.screenshot(path=SCREENSHOT)
        if not by_keyboard(page):
            print("the button is not reached by keyboard")
            wrong += 1
        browser.close()
    own = urlsplit(PAGE).netloc
    for url in asked:
        parts = urlsplit(url)
        if url.startswith("error:") or (parts.scheme not in ("data", "file") and parts.netloc != own):
            print(f"asked for: {url}")
            wrong += 1
    print(f"{len(asked)} requests, none outside; {wrong} faults")
    return 1 if wrong else 0


sys.exit(main())
