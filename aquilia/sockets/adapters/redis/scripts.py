"""The scripts that Redis runs as one: what stores, numbers and publishes at once, reads a log, and swaps a value.

A room that remembers is a stream, whose ids are the offsets: a log that moves on has no other clock than Redis' own,
so an offset is the microsecond since 1970 in which it was given, or the one behind the newest. So they increase even
where all that was known of a room has expired, and behind a failover that lost the newest of them. Each entry knows
the one before it. Who has one position reads on without a loss if the entry behind it knows that position: there is
no other way to be complete. So a log whose head went back is found out by whoever has what was lost.

An epoch is that of a share, of all its rooms: its text has the second in which it began, and grows. Beside it stand
the microsecond of its birth, and the epoch before: entries that are not behind that birth are the former's.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

__all__ = ["ALL", "CAS", "CHECK", "FORGET", "HEAD", "PUBLISH", "PUT", "READ", "TAKE", "Script"]


class Script(NamedTuple):
    """What Redis runs, and the name that EVALSHA knows it by."""

    source: bytes
    digest: bytes


def _script(*parts: str, flags: str = "") -> Script:
    source = "\n".join((f"#!lua flags={flags}" if flags else "#!lua", *parts)).encode()
    return Script(source, hashlib.sha1(source, usedforsecurity=False).hexdigest().encode())


_NOW = """
local call = redis.call
local function text(number) return string.format('%.0f', number) end
local clock = call('TIME')
local now = clock[1] * 1000000 + clock[2]
"""

# KEYS[1]: of the epoch; ARGV[1]: four letters by chance.
_EPOCH = """
local epoch, birth, former
local function begin_epoch()
  former = epoch or ''
  local second = tonumber(clock[1])
  if epoch then second = math.max(second, tonumber(string.sub(epoch, 1, 8), 16) + 1) end
  epoch, birth = string.format('%08x%05x', second, clock[2]) .. ARGV[1], now
  call('SET', KEYS[1], epoch .. ' ' .. text(birth) .. ' ' .. former)
end
local function open_epoch(said)
  if said then
    epoch, birth, former = string.match(said, '^(%S+) (%d+) (%S*)$')
    birth = tonumber(birth)
  end
  if not birth then begin_epoch() end
end
-- The head of a log of which nothing is known. In an epoch that begins now it has had nothing; later it may have.
local function unknown_head()
  return birth == now and birth or math.max(now, birth + 1)
end
"""

# Where a log ends and begins, what it holds, and when its keys were last given time: five numbers.
_STATE = """
local function state_of(said)
  if not said or #said ~= 40 then return 0, 0, 0, 0, 0 end
  return struct.unpack('<ddddd', said)
end
local function state(...) return struct.pack('<ddddd', ...) end
"""

# KEYS: epoch, head, log, ids. ARGV: letters, id, data, size, ttl (ms), max_bytes, remembered (ms), channel.
# Oldest entries go before the new one comes, many at once where it may hold many: up to a sixteenth more than `size`.
# It is published before it is stored, as that alone may be refused here.
PUBLISH = _script(
    _NOW,
    _EPOCH,
    _STATE,
    """
local id, data, size, ttl, max_bytes = ARGV[2], ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local said = call('MGET', KEYS[1], KEYS[2])
open_epoch(said[1])
local head, first, count, bytes, renewed = state_of(said[2])
local oldest, most = now - ttl * 1000, size + math.floor(size / 16)
if head <= oldest then count = 0 end
if count == 0 then
  call('DEL', KEYS[3], KEYS[4])
  bytes = 0
end
local offset = math.max(head + 1, now, birth + 1)
local at, kept = text(offset), true
if call('HSETNX', KEYS[4], id, at) == 0 then
  local known = call('HGET', KEYS[4], id)
  local of = tonumber(known) > birth and epoch or former
  if tonumber(known) > oldest and of ~= '' then return {of, known} end
  kept = false
end
local function refused(told)
  call('HDEL', KEYS[4], id)
  return told
end
local chunk = 2
if count >= most then most, chunk = size, math.min(64, 2 + most - size) end
while count > 0 and (first <= oldest or count >= most or bytes + #data > max_bytes) do
  local entries = redis.pcall('XRANGE', KEYS[3], '-', '+', 'COUNT', chunk)
  if entries.err then return refused(entries) end
  if #entries < chunk then count = #entries end
  if #entries == count then
    bytes = 0
    for _, entry in ipairs(entries) do bytes = bytes + #entry[2][6] end
  end
  if count == 0 then
    call('DEL', KEYS[4])
    kept = false
  end
  local gone, last = {}, nil
  for at, entry in ipairs(entries) do
    first = tonumber(string.match(entry[1], '^%d+'))
    if first > oldest and count < most and bytes + #data <= max_bytes then break end
    if at == #entries and count > 1 then break end
    gone[#gone + 1] = entry[2][4]
    bytes = bytes - #entry[2][6]
    count = count - 1
    last = first
  end
  if #gone > 0 then
    call('XTRIM', KEYS[3], 'MINID', text(last + 1) .. '-0')
    if call('HDEL', KEYS[4], unpack(gone)) < #gone then renewed = 0 end
  end
  chunk = math.min(chunk * 2, 64)
end
if not kept then call('HSET', KEYS[4], id, at) end
local previous = text(head > 0 and head or math.min(unknown_head(), offset - 1))
local told = redis.pcall('SPUBLISH', ARGV[8], epoch .. ' ' .. at .. ' ' .. previous .. '\\n' .. data)
if type(told) == 'table' and told.err then return refused(told) end
local function add(...) return redis.pcall('XADD', KEYS[3], ...) end
local added = count > 0 and add('NOMKSTREAM', at .. '-0', 'p', previous, 'i', id, 'd', data)
if not added then
  if count > 0 then
    call('DEL', KEYS[4])
    call('HSET', KEYS[4], id, at)
  end
  added = add(at .. '-0', 'p', previous, 'i', id, 'd', data)
  first, count, bytes, renewed = offset, 0, 0, 0
end
if added.err then return refused(added) end
if now - renewed > ttl * 100 then
  renewed = now
  call('PEXPIRE', KEYS[3], text(ttl * 1.1 + 1))
  call('PEXPIRE', KEYS[4], text(ttl * 1.1 + 1))
end
call('SET', KEYS[2], state(offset, first, count + 1, bytes + #data, renewed), 'PX', ARGV[7])
return {epoch, at}
""",
)

# A head before what was seen went back, and so did an epoch before it.
_LOST = """
local function is_lost(head, behind, remembered)
  return head < behind and (head > 0 or behind > now - remembered * 1000)
end
"""

# KEYS: epoch, head. ARGV: remembered (ms), and a position that was seen. Whether HEAD has something to do about it: a
# server that takes no writes now, for want of a disk or of replicas, answers this too.
CHECK = _script(
    _NOW,
    _STATE,
    _LOST,
    """
local said = call('MGET', KEYS[1], KEYS[2])
local epoch = said[1] and string.match(said[1], '^(%S+) %d+ %S*$')
if not epoch or ARGV[2] > epoch then return 1 end
return ARGV[2] == epoch and is_lost(state_of(said[2]), tonumber(ARGV[3]), ARGV[1]) and 1 or 0
""",
    flags="no-writes,allow-oom",
)

# KEYS: epoch, head. ARGV: letters, remembered (ms), and a position that was seen, if any.
HEAD = _script(
    _NOW,
    _EPOCH,
    _STATE,
    _LOST,
    """
local seen, behind = ARGV[3] or '', tonumber(ARGV[4] or 0)
local said = call('MGET', KEYS[1], KEYS[2])
open_epoch(said[1])
local head = state_of(said[2])
if seen > epoch or (seen == epoch and is_lost(head, behind, ARGV[2])) then begin_epoch() end
if head == 0 then
  head = unknown_head()
  call('SET', KEYS[2], state(head, 0, 0, 0, 0), 'PX', ARGV[2])
end
call('PEXPIRE', KEYS[2], ARGV[2], 'GT')
return {epoch, text(head)}
""",
    flags="allow-oom",
)

# KEYS: epoch, head, log. ARGV: ttl (ms), limit, and the position to read behind, if any.
# Answers epoch, head, whether it is complete, the epoch of the entries, and these; nothing, where HEAD comes first.
READ = _script(
    _NOW,
    _STATE,
    """
local oldest, limit, since, behind = now - ARGV[1] * 1000, tonumber(ARGV[2]), ARGV[3], tonumber(ARGV[4] or 0)
local said = call('MGET', KEYS[1], KEYS[2])
local epoch, birth, former = string.match(said[1] or '', '^(%S+) (%d+) (%S*)$')
local head = state_of(said[2])
if not epoch or head == 0 then return false end
birth = tonumber(birth)
local function answer(complete, of, entries)
  return {epoch, text(head), complete, of, limit > 0 and entries or {}}
end
if not since then
  local found, start = {}, math.max(oldest, birth)
  if limit > 0 then found = call('XREVRANGE', KEYS[3], '+', '(' .. text(start) .. '-0', 'COUNT', limit) end
  local entries = {}
  for at = #found, 1, -1 do entries[#entries + 1] = found[at] end
  return answer(1, epoch, entries)
end
local function from(start, stop)
  return call('XRANGE', KEYS[3], '(' .. text(math.max(start, oldest)) .. '-0', stop, 'COUNT', math.max(limit, 1))
end
if since == epoch and behind > head then return answer(0, epoch, {}) end
if since == epoch and behind > birth then
  local entries = from(behind, '+')
  local before = entries[1] and tonumber(entries[1][2][2]) or head
  if before == behind then return answer(1, epoch, entries) end
elseif since == epoch then
  local entries = from(birth, '+')
  local before = entries[1] and tonumber(entries[1][2][2]) or head
  if before <= birth then return answer(1, epoch, entries) end
elseif since == former and since ~= '' and behind < birth then
  local entries = from(behind, text(birth) .. '-0')
  if entries[1] and tonumber(entries[1][2][2]) == behind then return answer(1, former, entries) end
end
return answer(0, epoch, {})
""",
    flags="no-writes,allow-oom",
)

# KEYS: head, log, ids. ARGV: ttl (ms), remembered (ms).
FORGET = _script(
    _NOW,
    _STATE,
    """
local oldest, count = math.max(0, now - ARGV[1] * 1000), 0
local first = call('XRANGE', KEYS[2], '(' .. text(oldest) .. '-0', '+', 'COUNT', 1)
if first[1] then
  call('XTRIM', KEYS[2], 'MINID', first[1][1])
  count = call('XLEN', KEYS[2])
end
call('DEL', KEYS[2], KEYS[3])
local head = state_of(call('MGET', KEYS[1])[1])
if head > 0 then call('SET', KEYS[1], state(head, 0, 0, 0, 0), 'PX', ARGV[2]) end
return count
""",
    flags="allow-oom",
)

# A value begins with one letter, "v", or "t" where it was taken, and twelve bytes that name who wrote it: what was
# said again, since its answer was lost, is told what came of it.
_VALUE = """
local call = redis.call
local found = call('GET', KEYS[1])
local kind, writer = found and string.sub(found, 1, 1), found and string.sub(found, 2, 13)
local function set(value, ttl)
  if ttl == '' then call('SET', KEYS[1], value) else call('SET', KEYS[1], value, 'PX', ttl) end
end
"""

# ARGV: writer, value, ttl (ms, or nothing).
PUT = _script(_VALUE, "set('v' .. ARGV[1] .. ARGV[2], ARGV[3])", "return 1")

# ARGV: writer, value, ttl, and what is expected, if a value is.
CAS = _script(
    _VALUE,
    """
if kind == 'v' and writer == ARGV[1] then return 1 end
local now = kind == 'v' and string.sub(found, 14) or nil
if now ~= ARGV[4] then return 0 end
set('v' .. ARGV[1] .. ARGV[2], ARGV[3])
return 1
""",
)

# ARGV: writer, and for how long (ms) it is remembered who took it.
TAKE = _script(
    _VALUE,
    """
if kind == 't' and writer == ARGV[1] then return string.sub(found, 14) end
if kind ~= 'v' then return false end
set('t' .. ARGV[1] .. string.sub(found, 14), ARGV[2])
return string.sub(found, 14)
""",
    flags="allow-oom",
)

ALL = (PUBLISH, CHECK, HEAD, READ, FORGET, PUT, CAS, TAKE)
