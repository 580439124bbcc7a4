#!/usr/bin/env python3
"""datsync beside JavaScript hypercore 6, hyperdrive 9 and the floor, in one run.

usage: bench.py [--quick] [--only ROW]... [--runs N] [--strict] [--keep] [-o FILE]

rows (all by default):
  blocks64k   1 GiB in blocks of 64 KiB, one sender and one receiver
  blocks100   1,000,000 blocks of 100 bytes, the same
  memory      10,000,000 blocks of 10 bytes: one sender with 4 receivers, then one receiver with 4 senders
  fanout      256 MiB in blocks of 64 KiB to 1, 2, 4, 8, 16 receivers at once
  drive10k    a drive of 10,000 files of 1 KiB in 100 folders: import, then clone
  drive1g     a drive of one file of 1 GiB: the same
  drivemem    drives of 100,000 files of 100 bytes in 1,000 folders, and of a sparse file of 10 GiB

--quick    a tenth of the sizes: a look at whether it works, no figures to quote
--strict   throw a run away in which other programs used more than 5 % of a core, and do it again
--keep     leave build/bench as it is at the end
--place DIR  the feeds and drives go into a new folder in DIR (build/bench), as one on tmpfs
-o FILE    the summary as JSON, too

Every run is added to build/bench/results.jsonl. README.md beside this file says what each row measures.

SPDX-License-Identifier: MIT
"""
import argparse
import json
import os
import shlex
import shutil
import signal
import statistics
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)
WORK = os.path.join(ROOT, 'build', 'bench')
DEPS = os.path.join(ROOT, 'build', 'bench-js')
DATSYNC = os.environ.get('DATSYNC', os.path.join(ROOT, 'build', 'datsync'))
RESULTS = os.path.join(WORK, 'results.jsonl')
PLACE = WORK
RUN = os.path.join(WORK, 'run')
FLOOR = os.path.join(WORK, 'floor')
FILES = os.path.join(WORK, 'files')
HZ = os.sysconf('SC_CLK_TCK')
ROWS = ['blocks64k', 'blocks100', 'memory', 'fanout', 'drive10k', 'drive1g', 'drivemem']
# GiB of disk; 7 for the others
NEEDS = {'drive10k': 1, 'drivemem': 12}
MIB = 1 << 20
GIB = 1 << 30
FANOUT = [1, 2, 4, 8, 16]
SENDER_CORE, RECEIVER_CORE = '0', '1'
JS_BEST = ['--max-requests', '64']
NOISE = 0.05
# Seconds for one run; the slowest known is JS with a million blocks on a loaded machine.
LIMIT = 900


class Failed(Exception):
    pass


def say(text):
    print(text, file=sys.stderr, flush=True)


# ---------------------------------------------------------------- processes ---------------------------------------


class Process:
    """A command on a core; what it printed, and what it took once it has ended."""

    started = 0
    running = []

    def __init__(self, role, core, command, env=None):
        Process.started += 1
        base = os.path.join(WORK, 'p%d' % Process.started)
        self.role, self.out, self.err, self.stats = role, base + '.out', base + '.err', base + '.stats'
        with open(self.out, 'w') as out, open(self.err, 'w') as err:
            self.process = subprocess.Popen([RUN, core, self.stats] + command, stdin=subprocess.DEVNULL, stdout=out,
                                            stderr=err, env=dict(os.environ, **(env or {})))
        Process.running.append(self)

    def text(self):
        with open(self.out) as f:
            return f.read()

    def failed(self, why):
        with open(self.err) as f:
            return Failed('%s: %s: %s' % (self.role, why, f.read()[-1500:].strip() or self.text()[-500:].strip()))

    def until(self, pick, limit=60):
        """The first of its lines for which pick() gives something."""
        end = time.monotonic() + limit
        while time.monotonic() < end:
            for line in self.text().splitlines():
                got = pick(line)
                if got:
                    return got
            if self.process.poll() is not None:
                raise self.failed('ended early')
            time.sleep(0.005)
        raise self.failed('was not ready in %d s' % limit)

    def wait(self, limit=LIMIT, codes=(0,)):
        try:
            code = self.process.wait(limit)
        except subprocess.TimeoutExpired:
            raise self.failed('took more than %d s' % limit) from None
        Process.running.remove(self)
        if code not in codes:
            raise self.failed('exit code %d' % code)
        with open(self.stats) as f:
            return json.load(f)

    def end(self):
        self.process.send_signal(signal.SIGTERM)
        return self.wait(60, (0, 130, 143))

    def json(self):
        return json.loads(self.text().splitlines()[-1])

    @staticmethod
    def end_all():
        for p in list(Process.running):
            p.process.terminate()
            try:
                p.process.wait(10)
            except subprocess.TimeoutExpired:
                p.process.kill()
                p.process.wait()
            Process.running.remove(p)


def machine():
    """CPU seconds that all programs have used so far, without the kernel's own threads."""
    with open('/proc/stat') as f:
        v = [int(x) / HZ for x in f.readline().split()[1:9]]
    busy = v[0] + v[1] + v[2]
    for pid in os.listdir('/proc'):
        if pid.isdigit():
            try:
                with open('/proc/%s/stat' % pid) as f:
                    text = f.read()
            except OSError:
                continue
            rest = text[text.rindex(')') + 2:].split()
            if rest[1] == '2' or pid == '2':
                busy -= (int(rest[11]) + int(rest[12])) / HZ
    return busy


def ballast(mib):
    with open('/proc/meminfo') as f:
        free = [int(line.split()[1]) // 1024 for line in f if line.startswith('MemAvailable')]
    mib = min(mib, free[0] // 2)
    subprocess.run([RUN, 'ballast', str(mib)], check=True)


def run(name, fn, warm, strict, quick):
    """One run, with what others used meanwhile; under strict again until that is little."""
    for attempt in range(8):
        os.sync()
        ballast(warm)
        busy, own, start = machine(), sum(os.times()[:4]), time.monotonic()
        result = fn()
        spent = time.monotonic() - start
        others = (machine() - busy - (sum(os.times()[:4]) - own)) / spent
        check = result.pop('check', None)
        if check:
            check()
        result = dict(result, run=name, quick=quick, others=round(max(0.0, others), 3))
        result['kept'] = not strict or result['others'] <= NOISE or attempt == 7
        with open(RESULTS, 'a') as f:
            f.write(json.dumps(result) + '\n')
        say('  %-34s %8.2f s   others %3.0f %%%s' % (name, result['wall'], 100 * result['others'],
                                                    '' if result['kept'] else '   thrown away'))
        if result['kept']:
            return result
        time.sleep(5)


# ---------------------------------------------------------------- feeds and folders -------------------------------


class Feed:
    def __init__(self, name, block, count):
        self.path = os.path.join(PLACE, name)
        self.block, self.count, self.bytes = block, count, block * count

    def make(self):
        if os.path.isdir(self.path):
            shutil.rmtree(self.path)
        say('making a feed of %s blocks of %d bytes' % (format(self.count, ','), self.block))
        subprocess.run([DATSYNC, 'feed', 'create', '--quiet', self.path], check=True, stdout=subprocess.DEVNULL)
        p = subprocess.Popen([DATSYNC, 'feed', 'append', '--no-sync', '--quiet', '--block-size', str(self.block),
                              self.path], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
        left = self.bytes
        while left:
            left -= p.stdin.write(os.urandom(min(left, 4 * MIB)))
        p.stdin.close()
        if p.wait():
            raise Failed('append failed')
        with open(os.path.join(self.path, 'key'), 'rb') as f:
            self.key = f.read().hex()
        return self

    def drop(self):
        shutil.rmtree(self.path, ignore_errors=True)

    def same(self, folder, *names):
        for name in names or ('data',):
            if subprocess.run(['cmp', '-s', os.path.join(folder, name), os.path.join(self.path, name)]).returncode:
                raise Failed('%s/%s is not what was sent' % (folder, name))


def fresh(name):
    path = os.path.join(PLACE, name)
    shutil.rmtree(path, ignore_errors=True)
    return path


def total(stats):
    return stats['user'] + stats['sys']


def two_sides(wall, sender, receiver, check, **more):
    return dict(more, wall=wall, sender_cpu=total(sender[0]), receiver_cpu=total(receiver[0]),
                sender_mib=sender[1]['rss_kb'] / 1024, receiver_mib=receiver[1]['rss_kb'] / 1024, check=check)


# ---------------------------------------------------------------- the three of them -------------------------------


def address(line):
    event = json.loads(line)
    return event['address'] if event.get('event') == 'listening' else None


def datsync_share(folder, core=SENDER_CORE):
    p = Process('datsync share', core, [DATSYNC, 'feed', 'share', '--json', '--no-discovery', '--listen',
                                        '127.0.0.1:0', folder])
    return p, p.until(address)


def datsync_clone(feed, folder, peers, sync, core=RECEIVER_CORE):
    command = [DATSYNC, 'feed', 'clone', '--quiet', '--no-discovery', '--no-listen', '--timeout', '120']
    for peer in peers:
        command += ['--peer', peer]
    return Process('datsync clone', core, command + ([] if sync else ['--no-sync']) + [feed.key, folder])


def datsync_pair(feed, sync):
    folder = fresh('rx')
    share, at = datsync_share(feed.path)
    receiver = datsync_clone(feed, folder, [at], sync).wait()
    sender = share.end()

    def check():
        feed.same(folder, 'data', 'tree')
        shutil.rmtree(folder)
    return two_sides(receiver['wall'], (sender, sender), (receiver, receiver), check)


def js_sender(feed, core, peers=1):
    p = Process('JS sender', core, ['node', os.path.join(HERE, 'js-sender.js'), feed.path, '--peers', str(peers)],
                {'DEPS': DEPS})
    return p, p.until(lambda line: line.startswith('READY') and line.split()[1])


def js_receiver(feed, folder, port, core, options):
    command = ['node', os.path.join(HERE, 'js-receiver.js'), folder, port, feed.key]
    return Process('JS receiver', core, command + options, {'DEPS': DEPS})


def js_pair(feed, sync, best):
    folder = fresh('rx')
    cores = (SENDER_CORE, RECEIVER_CORE) if best else ('-', '-')
    tx, port = js_sender(feed, cores[0])
    rx = js_receiver(feed, folder, port, cores[1], (JS_BEST if best else []) + (['--sync'] if sync else []))
    receiver, sender = rx.wait(), tx.wait(60)

    def check():
        feed.same(folder)
        shutil.rmtree(folder)
    return two_sides(rx.json()['wall'], (tx.json(), sender), (rx.json(), receiver), check, syncs=rx.json()['syncs'])


def floor_pair(feed, sync):
    folder = fresh('rx')
    os.mkdir(folder)
    p = Process('floor', '-', [FLOOR] + (['--sync'] if sync else []) + [feed.path, folder, str(feed.block),
                                                                        str(feed.count)])
    p.wait()
    r = p.json()

    def check():
        feed.same(folder)
        # without its header, which the floor leaves out
        trees = [os.path.join(d, 'tree') for d in (folder, feed.path)]
        if subprocess.run(['cmp', '-s', '-i', '32'] + trees).returncode:
            raise Failed('the floor wrote another tree')
        shutil.rmtree(folder)
    return two_sides(r['wall'], (r['sender'], r['sender']), (r['receiver'], r['receiver']), check)


def clones(count, start):
    """count receivers at once; the longest wall, the largest memory, their CPU."""
    begin = time.monotonic()
    receivers = [start(i) for i in range(count)]
    stats = [r.wait() for r in receivers]
    return time.monotonic() - begin, max(s['rss_kb'] for s in stats) / 1024, sum(map(total, stats))


def datsync_fan(feed, count, keep=False):
    folders = [fresh('rx%d' % i) for i in range(count)]
    share, at = datsync_share(feed.path)
    wall, mib, cpu = clones(count, lambda i: datsync_clone(feed, folders[i], [at], False))
    sender = share.end()

    def check():
        for folder in folders:
            feed.same(folder)
            if not keep:
                shutil.rmtree(folder)
    return {'wall': wall, 'sender_cpu': total(sender), 'receiver_cpu': cpu, 'sender_mib': sender['rss_kb'] / 1024,
            'receiver_mib': mib, 'check': check}


def datsync_gather(feed, count):
    """One receiver from the folders that datsync_fan() left."""
    folder = fresh('rx')
    shares = [datsync_share(os.path.join(PLACE, 'rx%d' % i)) for i in range(count)]
    receiver = datsync_clone(feed, folder, [at for _, at in shares], False).wait()
    senders = [p.end() for p, _ in shares]

    def check():
        feed.same(folder)
        shutil.rmtree(folder)
    return {'wall': receiver['wall'], 'sender_cpu': sum(map(total, senders)), 'receiver_cpu': total(receiver),
            'sender_mib': max(s['rss_kb'] for s in senders) / 1024, 'receiver_mib': receiver['rss_kb'] / 1024,
            'check': check}


def js_fan(feed, count):
    folders = [fresh('rx%d' % i) for i in range(count)]
    tx, port = js_sender(feed, SENDER_CORE, count)
    wall, mib, cpu = clones(count, lambda i: js_receiver(feed, folders[i], port, RECEIVER_CORE, JS_BEST))
    sender = tx.wait(60)

    def check():
        for folder in folders:
            feed.same(folder)
            shutil.rmtree(folder)
    return {'wall': wall, 'sender_cpu': total(tx.json()), 'receiver_cpu': cpu, 'sender_mib': sender['rss_kb'] / 1024,
            'receiver_mib': mib, 'check': check}


# ---------------------------------------------------------------- drives ------------------------------------------


def files(folder):
    """{path: size} of what is in a drive's folder, without what only one of the programs puts there."""
    found = {}
    for at, folders, names in os.walk(folder):
        if at == folder:
            folders[:] = [name for name in folders if name != '.dat']
        for name in names:
            path = os.path.join(at, name)
            found[os.path.relpath(path, folder)] = os.path.getsize(path)
    found.pop('dat.json', None)
    return found


class Tree:
    """A folder of files: count of them of a size, a hundred a folder; a copy for each program that keeps its drive there."""

    def __init__(self, name, count, size, sparse=False):
        self.name, self.count, self.size, self.sparse = name, count, size, sparse
        self.path = os.path.join(PLACE, name)

    def make(self, *copies):
        shutil.rmtree(self.path, ignore_errors=True)
        say('making %s files of %s bytes' % (format(self.count, ','), format(self.size, ',')))
        for i in range(self.count):
            folder = self.path if self.count == 1 else os.path.join(self.path, 'd%03d' % (i // 100))
            if i % 100 == 0:
                os.makedirs(folder)
            with open(os.path.join(folder, 'f%02d' % (i % 100)), 'wb') as f:
                left = 0 if self.sparse else self.size
                while left:
                    left -= f.write(os.urandom(min(left, 4 * MIB)))
                f.truncate(self.size)
        for copy in copies:
            shutil.rmtree(self.of(copy), ignore_errors=True)
            shutil.copytree(self.path, self.of(copy))
        return self

    def of(self, program):
        return self.path + '-' + program

    def drop(self):
        for name in os.listdir(PLACE):
            if name == self.name or name.startswith(self.name + '-'):
                shutil.rmtree(os.path.join(PLACE, name))

    def same(self, folder):
        there = files(folder)
        if there != files(self.path):
            raise Failed('%s has other files' % folder)
        for name in there:
            if subprocess.run(['cmp', '-s', os.path.join(folder, name), os.path.join(self.path, name)]).returncode if (
                    self.size > MIB) else read(folder, name) != read(self.path, name):
                raise Failed('%s/%s is not what was sent' % (folder, name))


def read(folder, name):
    with open(os.path.join(folder, name), 'rb') as f:
        return f.read()


def one_side(wall, stats, peak, check=None):
    return {'wall': wall, 'sender_cpu': total(stats), 'receiver_cpu': 0, 'sender_mib': peak['rss_kb'] / 1024,
            'receiver_mib': 0, 'check': check}


def datsync_import(tree, sync):
    folder = tree.of('datsync')
    for name in (os.path.join(folder, '.dat'), tree.of('datsync-keys')):
        shutil.rmtree(name, ignore_errors=True)
    if os.path.exists(os.path.join(folder, 'dat.json')):
        os.unlink(os.path.join(folder, 'dat.json'))
    p = Process('datsync create', SENDER_CORE, [DATSYNC, 'create', '--quiet', '--secret-dir', tree.of('datsync-keys')]
                + ([] if sync else ['--no-sync']) + [folder])
    stats = p.wait()
    return one_side(stats['wall'], stats, stats)


def datsync_drive_pair(tree, sync):
    folder = fresh('rx')
    share = Process('datsync share', SENDER_CORE, [DATSYNC, 'share', '--json', '--no-discovery', '--listen',
                                                   '127.0.0.1:0', '--secret-dir', tree.of('datsync-keys'),
                                                   tree.of('datsync')])
    at = share.until(address, 300)
    with open(os.path.join(tree.of('datsync'), '.dat', 'metadata.key'), 'rb') as f:
        key = f.read().hex()
    receiver = Process('datsync clone', RECEIVER_CORE, [
        DATSYNC, 'clone', '--quiet', '--no-discovery', '--no-listen', '--timeout', '120', '--peer', at]
        + ([] if sync else ['--no-sync']) + [key, folder]).wait()
    sender = share.end()

    def check():
        tree.same(folder)
        shutil.rmtree(folder)
    return two_sides(receiver['wall'], (sender, sender), (receiver, receiver), check)


def js_drive(command, core, words, dat):
    return Process('JS ' + command, core, ['node', os.path.join(HERE, 'js-drive.js'), command] + words
                   + (['--dat', dat] if dat else []), {'DEPS': DEPS})


def js_import(tree, dat):
    if dat:
        store, keys = tree.of('js'), fresh(tree.name + '-js-keys')
        shutil.rmtree(os.path.join(store, '.dat'), ignore_errors=True)
    else:
        store, keys = fresh(tree.name + '-js-own'), None
    p = js_drive('import', SENDER_CORE, [store if dat else tree.path, store], keys)
    stats = p.wait()
    return one_side(p.json()['wall'], p.json(), stats)


def js_drive_pair(tree, dat):
    folder = fresh('rx')
    store, keys = (tree.of('js'), tree.of('js-keys')) if dat else (tree.of('js-own'), None)
    if dat:
        os.mkdir(folder)
    tx = js_drive('share', SENDER_CORE, [store], keys)
    port, key = tx.until(lambda line: line.startswith('READY') and line.split()[1:])
    rx = js_drive('clone', RECEIVER_CORE, [folder, port, key], dat and fresh('rx-keys'))
    receiver, sender = rx.wait(), tx.wait(60)

    def check():
        if dat:
            tree.same(folder)
        else:
            for name in ('metadata', 'content'):
                if subprocess.run(['cmp', '-s'] + [os.path.join(d, name, 'data') for d in (folder, store)]).returncode:
                    raise Failed('JS stored something else')
        shutil.rmtree(folder)
    return two_sides(rx.json()['wall'], (tx.json(), sender), (rx.json(), receiver), check)


def files_floor(tree, sync):
    folder = fresh('rx')
    p = Process('files', SENDER_CORE, [FILES] + (['--sync'] if sync else []) + [tree.path, folder])
    stats = p.wait()
    return one_side(float(p.text()), stats, stats, lambda: shutil.rmtree(folder))


# ---------------------------------------------------------------- rows --------------------------------------------


class Bench:
    def __init__(self, args):
        self.args = args
        self.runs = {}
        self.left_out = []
        self.asked = []
        self.js = self.have_js()

    def have_js(self):
        if os.path.exists(os.path.join(DEPS, 'installed')) and os.path.isdir(os.path.join(DEPS, 'node_modules', 'hyperdrive')):
            return True
        say('installing JavaScript hypercore in build/bench-js')
        os.makedirs(WORK, exist_ok=True)
        try:
            with open(os.path.join(WORK, 'setup.log'), 'w') as log:
                done = subprocess.run(['sh', os.path.join(HERE, 'setup.sh'), DEPS], stdout=log, stderr=log,
                                      timeout=600).returncode == 0
        except subprocess.TimeoutExpired:
            done = False
        if not done:
            with open(os.path.join(WORK, 'setup.log')) as log:
                say('it is not there: ' + log.read().strip().rpartition('\n')[2])
        return done

    def size(self, count):
        return count // 10 if self.args.quick else count

    def turns(self, row, contenders, warm):
        """A B C A B C ..., each the same number of times."""
        say(row)
        for _ in range(self.args.runs):
            for name, fn in contenders:
                key = row + ' ' + name
                result = run(key, fn, warm // 8 if self.args.quick else warm, self.args.strict, self.args.quick)
                self.runs.setdefault(key, []).append(result)

    def get(self, key, what):
        runs = self.runs.get(key)
        if not runs:
            return None
        values = [what(r) if callable(what) else r[what] for r in runs]
        return max(values) if isinstance(what, str) and what.endswith('_mib') else statistics.median(values)

    def ask(self, text, value, limit, unit=''):
        if value is None:
            self.left_out.append(text)
        else:
            self.asked.append({'asked': text, 'value': round(value, 4), 'limit': limit, 'unit': unit,
                               'met': value <= limit})

    def ratio(self, text, key, other, what, limit):
        a, b = self.get(key, what), self.get(other, what)
        self.ask(text, a / b if a is not None and b else None, limit, 'x')

    # ---- one sender, one receiver

    def pair(self, row, feed, warm):
        feed.make()
        for sync in (False, True):
            mode = 'sync' if sync else 'no-sync'
            contenders = [('datsync', lambda: datsync_pair(feed, sync)), ('floor', lambda: floor_pair(feed, sync))]
            if self.js:
                contenders.append(('JS best', lambda: js_pair(feed, sync, True)))
                if not sync:
                    contenders.append(('JS default', lambda: js_pair(feed, sync, False)))
            self.turns('%s %s' % (row, mode), contenders, warm)
        feed.drop()

    def blocks64k(self):
        row = 'blocks64k'
        self.pair(row, Feed('feed64k', 65536, self.size(16384)), 4096)
        cpu = (lambda r: r['sender_cpu'] + r['receiver_cpu'])
        key = row + ' no-sync '
        self.ratio('1 GiB in 64 KiB blocks, wall: at most 1.25 x the floor', key + 'datsync', key + 'floor', 'wall',
                   1.25)
        self.ratio('same, wall: at most half of JS at its best', key + 'datsync', key + 'JS best', 'wall', 0.5)
        self.ratio('same, CPU of both sides: at most 1.3 x the floor', key + 'datsync', key + 'floor', cpu, 1.3)
        self.memory_asked('1 GiB in 64 KiB blocks', row, 16)

    def blocks100(self):
        row = 'blocks100'
        self.pair(row, Feed('feed100', 100, self.size(1000000)), 2048)
        key = row + ' no-sync '
        self.ratio('1,000,000 blocks of 100 bytes, wall: at most 4 x the floor', key + 'datsync', key + 'floor', 'wall',
                   4)
        self.ratio('same, wall: at most 1/30 of JS at its best', key + 'datsync', key + 'JS best', 'wall', 0.0333)
        self.memory_asked('1,000,000 blocks of 100 bytes', row, 32)

    def memory_asked(self, text, row, limit):
        for side in ('sender', 'receiver'):
            values = [self.get(k, side + '_mib') for k in self.runs if k.startswith(row + ' ') and 'datsync' in k]
            self.ask('%s, peak memory of the %s: at most %d MiB' % (text, side, limit),
                     max(values) if values else None, limit, 'MiB')

    # ---- many blocks, four at once

    def memory(self):
        feed = Feed('feed10', 10, self.size(10000000)).make()

        def gather():
            # The folders it reads are those that the run before has left.
            return datsync_gather(feed, 4)
        self.turns('memory', [('datsync 1 sender, 4 receivers', lambda: datsync_fan(feed, 4, keep=True)),
                              ('datsync 4 senders, 1 receiver', gather)], 8192)
        for i in range(4):
            shutil.rmtree(os.path.join(PLACE, 'rx%d' % i), ignore_errors=True)
        feed.drop()
        self.memory_asked('10,000,000 blocks, 4 peers', 'memory', 32)

    # ---- one sender, many receivers

    def fanout(self):
        feed = Feed('feed256', 65536, self.size(4096)).make()
        for count in FANOUT:
            contenders = [('datsync', lambda: datsync_fan(feed, count))]
            if count == 1:
                contenders.append(('floor', lambda: floor_pair(feed, False)))
            if self.js:
                contenders.append(('JS best', lambda: js_fan(feed, count)))
            self.turns('fanout %d' % count, contenders, 3072 if count < 4 else 8192)
        feed.drop()

        def per_gib(name, count):
            return self.get('fanout %d %s' % (count, name), lambda r: r['sender_cpu'] * GIB / (feed.bytes * count))
        floor = per_gib('floor', 1)
        values = [per_gib('datsync', n) for n in FANOUT]
        self.ask('CPU of the sender for each GiB, 1 to 16 receivers: at most 1.3 s', max(values), 1.3, 's')
        self.ask('same: at most 1.3 x the floor\'s sender', max(values) / floor, 1.3, 'x')
        self.ask('same, flat: the most at most 1.3 x the least', max(values) / min(values), 1.3, 'x')
        for count in FANOUT:
            for name in ('datsync', 'floor', 'JS best'):
                key = 'fanout %d %s' % (count, name)
                for r in self.runs.get(key, []):
                    r['sender_cpu_per_gib'] = r['sender_cpu'] * GIB / (feed.bytes * count)

    # ---- drives

    def drive(self, row, tree, warm):
        tree.make('datsync', *['js'] * self.js)
        for sync in (False, True):
            mode = 'sync' if sync else 'no-sync'
            for part in ('import', 'clone'):
                if part == 'import':
                    contenders = [('datsync', lambda: datsync_import(tree, sync))]
                    js = js_import
                else:
                    contenders = [('datsync', lambda: datsync_drive_pair(tree, sync))]
                    js = js_drive_pair
                contenders.append(('files', lambda: files_floor(tree, sync)))
                if self.js and not sync:  # which never syncs
                    contenders += [('JS', lambda: js(tree, False)), ('JS dat', lambda: js(tree, True))]
                self.turns('%s %s %s' % (row, part, mode), contenders, warm)
        tree.drop()

    def drive_asked(self, row, text, limits):
        for part in ('import', 'clone'):
            key = '%s %s no-sync ' % (row, part)
            for js in ('JS', 'JS dat'):
                self.ratio('%s, %s: wall, at most %g x %s' % (text, part, limits[part], js), key + 'datsync', key + js,
                           'wall', limits[part])

    def drive10k(self):
        self.drive('drive10k', Tree('tree10k', self.size(10000), 1024), 1024)
        self.drive_asked('drive10k', '10,000 files of 1 KiB', {'import': 0.1, 'clone': 0.2})
        self.drive_memory_asked('10,000 files of 1 KiB', 'drive10k')

    def drive1g(self):
        self.drive('drive1g', Tree('tree1g', 1, self.size(GIB)), 4096)
        self.drive_asked('drive1g', 'one file of 1 GiB', {'import': 0.5, 'clone': 0.4})
        self.drive_memory_asked('one file of 1 GiB', 'drive1g')

    def drive_memory_asked(self, text, row):
        for part, side in (('import', 'sender'), ('clone', 'sender'), ('clone', 'receiver')):
            values = [self.get(k, side + '_mib') for k in self.runs
                      if k.startswith('%s %s ' % (row, part)) and k.endswith(' datsync')]
            who = {'import': 'import', 'sender': 'share', 'receiver': 'clone'}['import' if part == 'import' else side]
            self.ask('%s, peak memory of %s: at most 64 MiB' % (text, who), max(values) if values else None, 64, 'MiB')

    def drivemem(self):
        for name, text, tree in (
                ('drivemem files', '100,000 files of 100 bytes', Tree('tree100k', self.size(100000), 100)),
                ('drivemem sparse', 'a sparse file of 10 GiB', Tree('tree10g', 1, self.size(10 * GIB), sparse=True))):
            tree.make()
            os.rename(tree.path, tree.of('datsync'))  # one copy is enough
            os.symlink(tree.of('datsync'), tree.path)
            self.turns(name + ' import', [('datsync', lambda: datsync_import(tree, False))], 1024)
            self.turns(name + ' clone', [('datsync', lambda: datsync_drive_pair(tree, False))], 4096)
            os.unlink(tree.path)
            tree.drop()
            self.drive_memory_asked(text, name)

    # ---- what came out

    def summary(self):
        out = []
        for key in self.runs:
            entry = {'run': key, 'runs': len(self.runs[key]),
                     'others': max(r['others'] for r in self.runs[key])}
            for what in ('wall', 'sender_cpu', 'receiver_cpu', 'sender_cpu_per_gib', 'sender_mib', 'receiver_mib'):
                if what in self.runs[key][0]:
                    entry[what] = round(self.get(key, what), 4)
            out.append(entry)
        return out

    def table(self):
        rows = self.summary()
        width = max([len(r['run']) for r in rows] + [20])
        print()
        if self.args.quick:
            print('--quick: a tenth of the sizes; start and end weigh ten times as much, and so do the ratios\n')
        print('medians of %d; memory: the highest of all runs; others: the most that other programs used of a core\n'
              % self.args.runs)
        print('%-*s %9s %9s %9s %9s %9s %9s %7s' % (width, '', 'wall', 'CPU send', 'CPU recv', 'send/GiB', 'MiB send',
                                                   'MiB recv', 'others'))
        for r in rows:
            print('%-*s %8.2fs %8.2fs %8.2fs %9s %9.1f %9.1f %6.0f%%' % (
                width, r['run'], r['wall'], r['sender_cpu'], r['receiver_cpu'],
                '%.2fs' % r['sender_cpu_per_gib'] if 'sender_cpu_per_gib' in r else '', r['sender_mib'],
                r['receiver_mib'], 100 * r['others']))
        self.ratios(width)
        print()
        width = max([len(a['asked']) for a in self.asked] + [20])
        print('%-*s %12s' % (width, 'asked', 'measured'))
        for a in self.asked:
            print('%-*s %8.3f %-4s %s' % (width, a['asked'], a['value'], a['unit'], 'met' if a['met'] else 'NOT MET'))
        for text in self.left_out:
            print('%-*s left out' % (width, text))
        if not self.js:
            print('\nleft out, since JavaScript hypercore is not there: every row "JS ..."')
        noisy = [r['run'] for r in rows if r['others'] > NOISE]
        if noisy:
            print('\nother programs used more than %d %% of a core during: %s' % (100 * NOISE, ', '.join(noisy)))

    def ratios(self, width):
        lines = []
        for key in self.runs:
            row, _, name = key.rpartition(' datsync')
            if not row or name:
                continue
            for other in ('floor', 'files', 'JS best', 'JS default', 'JS', 'JS dat'):
                if row + ' ' + other not in self.runs:
                    continue
                values = [self.get(key, w) / (self.get(row + ' ' + other, w) or 1e-9)
                          for w in ('wall', lambda r: r['sender_cpu'] + r['receiver_cpu'], 'sender_cpu')]
                lines.append('%-*s %8.3fx %8.3fx %8.3fx' % ((width, row + ' ' + other) + tuple(values)))
        if lines:
            print('\n%-*s %9s %9s %9s' % (width, 'datsync against', 'wall', 'CPU both', 'CPU send'))
            print('\n'.join(lines))


def build():
    """The floor and the starter, by the compiler that the project is built with."""
    cc = shlex.split(os.environ.get('CC', 'cc'))
    flags = subprocess.run(['pkg-config', '--cflags', '--libs', 'libsodium'], stdout=subprocess.PIPE,
                           stderr=subprocess.DEVNULL, universal_newlines=True, check=False).stdout.split()
    for target, optimize, libs in ((RUN, '-O2', []), (FILES, '-O2', []), (FLOOR, '-O3', flags or ['-lsodium'])):
        subprocess.run(cc + [optimize, '-o', target, os.path.join(HERE, os.path.basename(target) + '.c')] + libs,
                       check=True)


def interrupted(_number, _frame):
    raise KeyboardInterrupt


def main():
    global PLACE
    parser = argparse.ArgumentParser(description=__doc__, usage=argparse.SUPPRESS,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--quick', action='store_true', help=argparse.SUPPRESS)
    parser.add_argument('--only', action='append', metavar='ROW', choices=ROWS, help=argparse.SUPPRESS)
    parser.add_argument('--runs', type=int, default=3, help=argparse.SUPPRESS)
    parser.add_argument('--strict', action='store_true', help=argparse.SUPPRESS)
    parser.add_argument('--keep', action='store_true', help=argparse.SUPPRESS)
    parser.add_argument('--place', metavar='DIR', help=argparse.SUPPRESS)
    parser.add_argument('-o', metavar='FILE', help=argparse.SUPPRESS)
    args = parser.parse_args()
    if not sys.platform.startswith('linux') or len(os.sched_getaffinity(0)) < 2:
        sys.exit('bench: needs Linux and two cores')
    if not os.access(DATSYNC, os.X_OK):
        sys.exit('bench: %s is not there: run make' % DATSYNC)
    os.makedirs(WORK, exist_ok=True)
    # Also where it was started with them ignored, as a shell does in the background.
    signal.signal(signal.SIGINT, interrupted)
    signal.signal(signal.SIGTERM, interrupted)
    rows = args.only or ROWS
    if args.place:
        PLACE = os.path.join(os.path.abspath(args.place), 'datsync-bench-%d' % os.getpid())
        os.makedirs(PLACE)
    need = max(NEEDS.get(row, 7) for row in rows) * GIB // (10 if args.quick else 1)
    if shutil.disk_usage(PLACE).free < need:
        if args.place:
            os.rmdir(PLACE)
        sys.exit('bench: needs %.1f GiB of disk in %s' % (need / GIB, args.place or 'build/bench'))
    build()
    bench = Bench(args)
    code = 0
    try:
        for row in rows:
            try:
                getattr(bench, row)()
            except Failed as error:
                say('bench: %s: %s' % (row, error))
                bench.left_out.append('%s (failed)' % row)
                code = 1
            finally:
                Process.end_all()
        if bench.runs:
            bench.table()
        if args.o:
            with open(args.o, 'w') as f:
                json.dump({'quick': args.quick, 'runs': bench.summary(), 'asked': bench.asked,
                           'left_out': bench.left_out}, f, indent=1)
    except KeyboardInterrupt:
        code = 130
    finally:
        Process.end_all()
        if args.place and not args.keep:
            shutil.rmtree(PLACE)
        if not args.keep:
            for name in os.listdir(WORK):
                path = os.path.join(WORK, name)
                if os.path.isdir(path):
                    shutil.rmtree(path)
                elif path != RESULTS:
                    os.unlink(path)
    return code


if __name__ == '__main__':
    sys.exit(main())
