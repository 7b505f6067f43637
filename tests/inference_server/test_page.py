"""The page in a real browser: Debian's chromium, headless."""

import os

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from server_process import Client, sentences


@pytest.fixture
def browser(tmp_path, monkeypatch):
    monkeypatch.setenv("SE_AVOID_STATS", "true")
    monkeypatch.setenv("SE_OFFLINE", "true")
    options = webdriver.ChromeOptions()
    options.binary_location = "/usr/bin/chromium"
    for argument in (
        "--headless=new", "--disable-dev-shm-usage", "--disable-gpu", "--no-first-run", "--window-size=1200,900",
        "--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-proxy-server",
        "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
        f"--user-data-dir={tmp_path / 'profile'}",
    ):
        options.add_argument(argument)
    if os.geteuid() == 0:
        options.add_argument("--no-sandbox")  # chromium refuses to run as root with it
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService("/usr/bin/chromedriver"))
    yield driver
    driver.quit()


def until(browser, condition, what):
    return WebDriverWait(browser, 30).until(lambda _: condition(), what)


def text_of(browser, element):
    return browser.find_element(By.ID, element).text


def results(browser, part="text"):
    """Read in one go: the page may replace the list between two calls of the driver."""
    script = "return Array.from(document.querySelectorAll('#results .' + arguments[0]), item => item.textContent)"
    return browser.execute_script(script, part)


def test_a_person_indexes_sentences_and_finds_them(start, browser, tmp_path):
    server = start()
    browser.get(server.url)
    assert browser.title == "Kumiko sentence search"
    until(browser, lambda: text_of(browser, "total") == "0", "live figures from /metrics")

    # Before anything is indexed a query says so.
    query = browser.find_element(By.ID, "query")
    query.send_keys("storm")
    until(browser, lambda: text_of(browser, "search-message") == "Nothing is indexed yet.", "the hint on an empty index")

    area = browser.find_element(By.ID, "sentences")
    browser.execute_script("arguments[0].value = arguments[1]", area, "\n".join(sentences()[:150]) + "\n\n  \n")
    browser.find_element(By.ID, "add").click()
    until(browser, lambda: text_of(browser, "index-message") == "150 added.", "150 sentences indexed")
    until(browser, lambda: text_of(browser, "size") == "150", "the size of the index on the page")

    query.clear()
    query.send_keys("My pet is scared of storms\n")
    expected = "Our dog hides under the bed whenever there is thunder."
    until(browser, lambda: results(browser)[:1] == [expected], "the expected sentence ranked first")
    assert len(results(browser)) == 8
    scores = [float(score) for score in results(browser, "score")]
    assert scores == sorted(scores, reverse=True) and 0.3 < scores[0] < 1

    # Live: requests of somebody else move the figures of this page.
    before = int(text_of(browser, "total"))
    other = Client(server.url)
    for _ in range(40):
        other.embed(["hello"])
    until(browser, lambda: int(text_of(browser, "total")) >= before + 40, "40 more requests on the page")
    assert float(text_of(browser, "rate")) > 0
    assert text_of(browser, "p50").endswith(" ms") and text_of(browser, "p99").endswith(" ms")
    assert text_of(browser, "attention").endswith(" %")
    assert browser.find_element(By.ID, "graph").get_attribute("d").startswith("M")
    screenshot = tmp_path / "page.png"
    assert browser.save_screenshot(str(screenshot)) and screenshot.stat().st_size > 10_000

    # Again: nothing new. Cleared: nothing found.
    browser.find_element(By.ID, "add").click()
    until(browser, lambda: text_of(browser, "index-message") == "0 added, 150 were there already.", "no duplicates")
    browser.find_element(By.ID, "clear").click()
    until(browser, lambda: text_of(browser, "size") == "0" and results(browser) == [], "an empty index")

    errors = [entry for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]
    assert errors == []


def test_texts_are_shown_as_text_and_errors_in_words(start, browser):
    server = start("--max-index", "3")
    browser.get(server.url)
    evil = "<img src=x onerror=\"document.title='owned'\"> <b>bold</b>"
    area = browser.find_element(By.ID, "sentences")
    browser.execute_script("arguments[0].value = arguments[1]", area, evil)
    browser.find_element(By.ID, "add").click()
    until(browser, lambda: text_of(browser, "index-message") == "1 added.", "one sentence indexed")
    browser.find_element(By.ID, "query").send_keys("picture\n")
    until(browser, lambda: results(browser) == [evil], "markup shown as text")
    assert browser.title == "Kumiko sentence search"

    browser.execute_script("arguments[0].value = arguments[1]", area, "one\ntwo\nthree")
    browser.find_element(By.ID, "add").click()
    until(browser, lambda: "room for 3" in text_of(browser, "index-message"), "the server's reason on the page")
    assert "bad" in browser.find_element(By.ID, "index-message").get_attribute("class").split()
