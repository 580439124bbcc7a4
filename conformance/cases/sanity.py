"""The first and the last conversation of every run."""

from suite.case import MUST, case


@case("sanity/first", "sanity", MUST, "DEP-0010; hypercore-protocol 6.12",
      "A conversation begins: Feed in the clear, then an enciphered Handshake",
      "Whoever cannot begin has nothing else to show: all other cases are then left out.")
def _(stage):
    stage.serves().meets()


@case("sanity/serve", "sanity", MUST, "DEP-0010, DEP-0002; hypercore 6.26",
      "A feed of 8 blocks is served whole, with proofs that verify",
      "The main job of a peer that has a feed.")
def _(stage):
    stage.serves()
    stage.copies()


@case("sanity/clone", "sanity", MUST, "DEP-0010, DEP-0002; hypercore 6.26",
      "A feed of 8 blocks is cloned whole, and the command ends",
      "The main job of a peer that wants a feed.")
def _(stage):
    stage.clones()
    stage.serve()
    stage.exits(0)
    stage.holds(stage.feeds[0])


@case("sanity/clone-listening", "sanity", MUST, "DEP-0010: either side may dial",
      "A downloader may be the one that listens",
      "Who dials says nothing about who has the feed.")
def _(stage):
    stage.clones(dial=False)
    stage.serve()
    stage.exits(0)
    stage.holds(stage.feeds[0])


@case("sanity/serve-dialling", "sanity", MUST, "DEP-0010: either side may dial",
      "A server may be the one that dials",
      "Who dials says nothing about who has the feed.")
def _(stage):
    stage.serves(dial=True)
    stage.copies()


@case("sanity/last", "sanity", MUST, "DEP-0010, DEP-0002; hypercore 6.26",
      "After all cases a conversation goes as the first one did",
      "A machine or a suite that has gone bad on the way is told apart from a bad peer.")
def _(stage):
    stage.serves()
    stage.copies()
