# SPDX-License-Identifier: Apache-2.0
"""The page in a real browser: Debian's chromium, headless."""

import json
import os
import re

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from server_process import Client, ServerProcess, sentences
from support import HOLD, Background, metric, wait_until


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
    """Read in one call: the page may replace the list between two calls of the driver."""
    script = "return Array.from(document.querySelectorAll('#results .' + arguments[0]), item => item.textContent)"
    return browser.execute_script(script, part)


def shown(browser, element):
    return browser.find_element(By.ID, element).is_displayed()


def screen(browser, width, height):
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 700}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def test_a_person_indexes_sentences_and_finds_them(start, browser, tmp_path):
    server = start()
    browser.get(server.url)
    assert browser.title == "Kumiko sentence search"
    until(browser, lambda: text_of(browser, "total") == "0", "live figures from /metrics")

    query = browser.find_element(By.ID, "query")
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

    # Live: requests of another client change the figures of this page.
    before = int(text_of(browser, "total"))
    other = Client(server.url)
    for _ in range(40):
        other.embed(["hello"])
    until(browser, lambda: int(text_of(browser, "total")) >= before + 40, "40 more requests on the page")
    assert float(text_of(browser, "rate")) > 0
    assert all(re.fullmatch(r"\d+(\.\d)? m?s", text_of(browser, name)) for name in ("p50", "p99"))
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
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    sent = [event["params"] for event in events if event["method"] == "Network.requestWillBeSent"]
    asked = [one["request"]["url"] for one in sent if one["documentURL"].startswith(server.url)]
    assert server.url + "/search" in asked
    assert [url for url in asked if not url.startswith((server.url + "/", "data:,"))] == []


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


def test_an_empty_index_offers_examples(start, browser):
    browser.get(start().url)
    until(browser, lambda: shown(browser, "empty"), "the offer on an empty index")
    query = browser.find_element(By.ID, "query")
    query.send_keys("My pet is scared of storms\n")
    until(browser, lambda: "index some sentences first" in text_of(browser, "search-message"), "what to do")
    assert "My pet is scared of storms" in text_of(browser, "search-message")

    browser.find_element(By.ID, "try").click()
    until(browser, lambda: len(results(browser)) == 8, "the question answered from the examples")
    assert results(browser)[0] == "Our dog hides under the bed whenever there is thunder."
    assert not shown(browser, "empty") and text_of(browser, "size") == "8"
    assert browser.switch_to.active_element == query


def test_scores_have_a_label(start, browser):
    server = start()
    Client(server.url).index(["Rain is forecast.", "The cat sleeps."])
    browser.get(server.url)
    assert not shown(browser, "columns")
    browser.find_element(By.ID, "query").send_keys("weather\n")
    until(browser, lambda: len(results(browser)) == 2, "two results")
    assert text_of(browser, "columns").split() == ["sentence", "similarity"]
    assert "“weather”" in text_of(browser, "search-message")
    for score in browser.find_elements(By.CSS_SELECTOR, "#results .score"):
        assert score.accessible_name == f"cosine similarity {score.text}"


def test_no_result_of_another_question_stands_beside_an_error(start, browser):
    server = start()
    Client(server.url).index(["Rain is forecast."])
    browser.get(server.url)
    query = browser.find_element(By.ID, "query")
    query.send_keys("weather\n")
    until(browser, lambda: results(browser) == ["Rain is forecast."], "a result")
    browser.execute_script("arguments[0].value = 'rain '.repeat(400)", query)
    query.send_keys("\n")
    until(browser, lambda: "bad" in browser.find_element(By.ID, "search-message").get_attribute("class"), "an error")
    assert results(browser) == [] and not shown(browser, "columns")
    message = text_of(browser, "search-message")
    assert re.fullmatch(r"The search for “(rain )+…” failed: .*402 word pieces.*", message) and len(message) < 250

    query.clear()
    query.send_keys("weather\n")
    until(browser, lambda: results(browser) == ["Rain is forecast."], "the result again")
    assert "bad" not in browser.find_element(By.ID, "search-message").get_attribute("class")


def test_a_busy_server_is_asked_again(start, browser):
    server = start("--queue", "1", *HOLD)
    client = Client(server.url)
    client.index(["Rain is forecast."])
    browser.get(server.url)
    waiting = Background([lambda: Client(server.url).embed(["fills the queue"])])
    wait_until(lambda: metric(client, "kumiko_queue_texts") == 1, "the queue full")
    browser.execute_script("document.getElementById('query').value = 'weather'; document.getElementById('form').requestSubmit()")
    until(browser, lambda: "Trying again in 1 s" in text_of(browser, "search-message"), "the page says that it waits")
    assert "the queue is full" in text_of(browser, "search-message")
    waiting.results()
    until(browser, lambda: results(browser) == ["Rain is forecast."], "the answer without another key pressed")


def test_a_server_that_is_gone_and_comes_back(start, browser, binary):
    server = start()
    browser.get(server.url)
    figures = ("rate", "p50", "p99", "total", "queued", "attention", "size")
    until(browser, lambda: text_of(browser, "total") == "0", "live figures")
    Client(server.url).embed(["hello"])
    until(browser, lambda: text_of(browser, "total") == "1", "a request counted")
    server.kill()
    until(browser, lambda: "no answer" in text_of(browser, "state"), "the page says that the server is gone")
    assert {text_of(browser, name) for name in figures} == {"–"}
    browser.find_element(By.ID, "query").send_keys("weather\n")
    failed = "The search for “weather” failed: the server does not answer"
    until(browser, lambda: text_of(browser, "search-message") == failed, "what failed and why")

    with ServerProcess(binary, port=server.port):
        until(browser, lambda: text_of(browser, "total") == "1", "the search asked again, on the new server")
        until(browser, lambda: "index some sentences" in text_of(browser, "search-message"), "its answer")
        assert "no answer" not in text_of(browser, "state")


def test_the_graph_says_what_it_waits_for_and_how_high_it_is(start, browser):
    server = start()
    browser.get(server.url)
    until(browser, lambda: text_of(browser, "total") == "0", "live figures")
    assert shown(browser, "waiting") and text_of(browser, "waiting") == "waiting for requests"
    assert browser.find_element(By.CSS_SELECTOR, "#chart svg").value_of_css_property("border-bottom-style") == "solid"
    assert text_of(browser, "top") == "1 request/s"
    client = Client(server.url)
    for _ in range(60):
        client.embed(["hello"])
    until(browser, lambda: not shown(browser, "waiting"), "the graph of requests")
    label = browser.find_element(By.ID, "chart").accessible_name
    highest = float(re.fullmatch(r"Requests per second in the last minute: at most ([0-9.]+)", label)[1])
    top = int(re.fullmatch(r"(\d+) requests?/s", text_of(browser, "top"))[1])
    assert 0 < highest <= top
    heights = re.findall(r"L[0-9.]+ ([0-9.]+)", browser.find_element(By.ID, "graph").get_attribute("d"))
    assert heights and all(0 <= float(height) <= 50 for height in heights)


# /metrics of a server much busier than a test can make one: 12 345 requests/s, most of 0.4 to 0.6 s, some of 3 s.
BUSY = r"""
const real = window.fetch;
window.fetch = (path, options) => {
  if (path !== "/metrics") return real(path, options);
  const total = 12345 * performance.now() / 1000;
  const bucket = (le, share) => `kumiko_http_request_seconds_bucket{path="/search",le="${le}"} ${Math.round(total * share)}\n`;
  return Promise.resolve(new Response(bucket("0.4", 0) + bucket("0.592", .98) + bucket("4", 1) + bucket("+Inf", 1) +
    "kumiko_queue_texts 9999\nkumiko_index_texts 100000\n" +
    "kumiko_forward_seconds_total 9\nkumiko_attention_seconds_total 9\n"));
};
"""
BOXES = """
return Array.from(document.querySelectorAll("#figures :is(dt, dd)"), box => {
  const text = document.createRange();
  text.selectNodeContents(box);
  const wide = text.getBoundingClientRect().width > box.parentElement.getBoundingClientRect().width;
  return {text: box.textContent, wide, lines: box.clientHeight / parseFloat(getComputedStyle(box).fontSize)};
});
"""


@pytest.mark.parametrize("size", [(360, 640), (390, 844), (768, 1024), (1200, 900)])
def test_figures_stay_on_one_line(server, browser, size):
    browser.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": BUSY})
    screen(browser, *size)
    browser.get(server.url)
    until(browser, lambda: text_of(browser, "p50") == "498 ms", "the median")
    assert re.fullmatch(r"\d\.\d s", text_of(browser, "p99"))
    assert re.fullmatch(r"1\d,\d{3}", text_of(browser, "rate"))
    assert text_of(browser, "attention") == "100 %" and text_of(browser, "size") == "100K"
    boxes = browser.execute_script(BOXES)
    assert len(boxes) == 12
    assert [box for box in boxes if box["wide"] or box["lines"] > 1.9] == []
    assert browser.execute_script("return document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.parametrize("size", [(360, 640), (390, 844), (1200, 900)])
def test_the_query_box_needs_no_scrolling(server, browser, size):
    screen(browser, *size)
    browser.get(server.url)
    query = browser.find_element(By.ID, "query")
    assert query.rect["y"] + query.rect["height"] < size[1] / 2
    assert browser.execute_script("return document.documentElement.scrollWidth <= innerWidth")
    # By keyboard alone: the query box first, then down the page in reading order; each control has a name.
    until(browser, lambda: shown(browser, "empty"), "the offer on an empty index")
    names = []
    for _ in range(7):
        browser.switch_to.active_element.send_keys(Keys.TAB)
        names.append(browser.switch_to.active_element.accessible_name)
    assert names == ["Search by meaning", "Search", "Index", "Index the examples", "Sentences to index", "Index sentences",
                     "Clear index"]


def contrast(one, other):
    """Contrast ratio of two #rrggbb colours as WCAG 2.1 defines it."""
    def luminance(colour):
        channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear))

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_by_day_and_by_night(server, browser, scheme):
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]})
    browser.get(server.url)
    colour = "return getComputedStyle(document.documentElement).getPropertyValue('--' + arguments[0]).trim()"
    colours = {name: browser.execute_script(colour, name) for name in ("paper", "card", "bar", "ink", "soft", "bad", "wood")}
    assert contrast(colours["paper"], "#000000" if scheme == "dark" else "#ffffff") < 2
    for pair in ("ink paper", "ink bar", "soft card", "soft paper", "soft bar", "bad card", "card wood", "wood card"):
        assert contrast(*(colours[name] for name in pair.split())) >= 4.5, pair
