# Copyright (c) 2026 the pullthrough.registry_cache authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An object of a Google API, brought to its state with one read and only the necessary writes.

Private to this collection.
"""

from __future__ import annotations

import typing as t

from .client import GcpClient, GcpError, differing, stripped

_Object = dict[str, t.Any]
# Whether there was a change, the object before, and the object after.
Outcome = tuple[bool, _Object, _Object]


class Resource:
    """Base class for a kind of object. Subclasses define how to create, update and delete it.

    :param api: root URL of the service, such as C(https://iam.googleapis.com/v1).
    :param name: full name of the object, relative to the root URL.
    """

    # Fields that Google sets in a new object, as far as check mode can predict them.
    added: t.ClassVar[_Object] = {}

    def __init__(self, client: GcpClient, api: str, name: str) -> None:
        self.client, self.name, self.url, self._api = client, name, f"{api}/{name}", api

    def read(self) -> _Object | None:
        """Return the current object, or None. Raise GcpError."""
        return self.client.get(self.url, self.name)

    def act(self, method: str, url: str, body: t.Any = None, params: _Object | None = None) -> None:
        """Send a request that starts a long-running operation, and wait until it ends. Raise GcpError."""
        operation = self.client.request(method, url, self.name, body=body, params=params)
        self.client.wait(operation, self._api, self.name)

    def same(self, _field: str, current: t.Any, wanted: t.Any) -> bool:
        """Return whether one field is as wanted."""
        return current == wanted

    def deleted(self, _current: _Object) -> bool:
        """Return whether the object that Google returns is deleted."""
        return False

    def check(self, current: _Object, wanted: _Object) -> None:
        """Refuse changes that Google does not allow. An empty current object does not exist. Raise GcpError."""

    def complete(self, _current: _Object, wanted: _Object) -> _Object:
        """Return the wanted fields, with those that depend on the current object."""
        return wanted

    def create(self, wanted: _Object) -> _Object | None:
        """Create the object; return it, or None to have it read. Raise GcpError."""
        raise NotImplementedError

    def undelete(self) -> None:
        """Undelete the object. Raise GcpError."""
        raise NotImplementedError

    def update(self, fields: _Object) -> _Object | None:
        """Replace these fields completely; return the object, or None to have it read. Raise GcpError."""
        raise NotImplementedError

    def delete(self) -> None:
        """Delete the object. Raises GcpError."""
        self.act("DELETE", self.url)

    def ensure(self, present: bool, wanted: _Object, check_mode: bool) -> Outcome:
        """Bring the object to its state.

        :param wanted: fields to set. Others are kept.
        :raises GcpError: with nothing changed, unless Google completed only a part.
        """
        before, made = self.read(), False
        if not present:
            return self._ensure_absent(before, check_mode)
        if before is None:
            self.check({}, wanted)
            wanted = self.complete({}, wanted)
            predicted = {"name": self.name, **self.added, **stripped(wanted)}
            if check_mode:
                return True, {}, predicted
            try:
                return True, {}, self.create(stripped(wanted)) or self.read() or predicted
            except GcpError as error:
                # Two clusters of one play share an object. The other one created it first, and may still be waiting for the operation.
                if error.status != 409:
                    raise
                before, made = self._created_by_others(error), error.ambiguous
        self.check(before, wanted)
        wanted = self.complete(before, wanted)
        deleted = self.deleted(before)
        fields = {field: wanted[field] for field in differing(before, wanted, self.same)}
        if not deleted and not fields:
            # After a create without a clear answer, the object may be its result.
            return (True, {}, before) if made else (False, before, before)
        # Undeleting removes the time at which the object would have been purged.
        revived = {**self.added, "expireTime": None} if deleted else {}
        predicted = stripped({**before, **revived, **fields})
        if check_mode:
            return True, before, predicted
        return True, before, self._change(deleted, fields) or self.read() or predicted

    def _change(self, deleted: bool, fields: _Object) -> _Object | None:
        revived = deleted and self._revive()
        try:
            return self.update(fields) if fields else None
        except GcpError:
            if revived:  # otherwise it would be active with its old fields
                self.delete()
            raise

    def _revive(self) -> bool:
        """Undelete the object; return False if somebody else did it first. Raise GcpError."""
        try:
            self.undelete()
        except GcpError:
            if self._is_gone():
                raise
            return False
        return True

    def _ensure_absent(self, before: _Object | None, check_mode: bool) -> Outcome:
        if before is None or self.deleted(before):
            return False, {}, {}
        if not check_mode:
            try:
                self.delete()
            except GcpError as error:
                # Somebody else deleted it first, or an earlier request succeeded but its answer was lost.
                if error.status != 404 and not (error.ambiguous and self._is_gone()):
                    raise
        return True, before, {}

    def _is_gone(self) -> bool:
        current = self.read()
        return current is None or self.deleted(current)

    def _created_by_others(self, conflict: GcpError) -> _Object:
        def read() -> _Object:
            found = self.read()
            if found is None:
                raise conflict
            return found

        return self.client.budget.retry(read, lambda error: error is conflict)
