// Clone a feed from C++17: owners are unique_ptrs, errors exceptions, and the callback finds its object behind ctx.
//
//     c++ -std=c++17 -c embed_cxx.cpp && cc -c datsync.c net_posix.c && c++ *.o -lsodium -o embed_cxx
//     ./embed_cxx dat://KEY 127.0.0.1:3282 folder
//
// SPDX-License-Identifier: MIT
#include "datsync.h"

#include <array>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <stdexcept>
#include <string>

namespace
{

int check(int result)
{
    if (result < 0)
        throw std::runtime_error(datsync_strerror(result));
    return result;
}

struct close_feed {
    void operator()(datsync_feed *feed) const
    {
        datsync_feed_close(feed); // after a flush there is nothing left that could fail
    }
};

struct free_sync {
    void operator()(datsync *ds) const
    {
        datsync_free(ds);
    }
};

class download
{
  public:
    download(const std::string &link, const std::string &folder)
    {
        std::array<std::uint8_t, 32> key{};
        datsync_feed_options options{};
        datsync_feed *feed = nullptr;

        env.clock = datsync_os_clock;
        check(datsync_parse_link(key.data(), link.c_str()));
        options.env = &env;
        options.key = key.data();
        options.flags = DATSYNC_CREATE;
        check(datsync_os_store(&options.store, folder.c_str(), nullptr, DATSYNC_CREATE));
        check(datsync_feed_open(&feed, &options));
        into.reset(feed);
    }

    std::uint64_t from(const std::string &address)
    {
        datsync_options options{};
        datsync *made = nullptr;

        options.env = &env;
        options.net = datsync_os_net();
        options.ctx = this;
        options.on_event = on_event;
        check(datsync_new(&made, &options, datsync_os_clock(nullptr)));
        std::unique_ptr<datsync, free_sync> ds(made);
        check(datsync_add(ds.get(), into.get(), DATSYNC_DOWNLOAD));
        check(datsync_connect(ds.get(), address.c_str(), datsync_os_clock(nullptr)));
        check(datsync_run(ds.get()));
        if (!complete)
            throw std::runtime_error("no peer had all of it");
        ds.reset();
        check(datsync_feed_flush(into.get()));
        return datsync_feed_length(into.get());
    }

  private:
    static void on_event(void *ctx, datsync *ds, const datsync_event *event)
    {
        if (event->type == DATSYNC_EV_COMPLETE) {
            static_cast<download *>(ctx)->complete = true;
            datsync_stop(ds);
        }
    }

    datsync_env env{};
    std::unique_ptr<datsync_feed, close_feed> into;
    bool complete = false;
};

} // namespace

int main(int argc, char **argv)
{
    if (argc != 4) {
        std::fprintf(stderr, "usage: embed_cxx dat://KEY HOST:PORT FOLDER\n");
        return 2;
    }
    try {
        std::printf("%llu blocks\n", static_cast<unsigned long long>(download(argv[1], argv[3]).from(argv[2])));
    } catch (const std::exception &error) {
        std::fprintf(stderr, "embed_cxx: %s\n", error.what());
        return 1;
    }
    return 0;
}
