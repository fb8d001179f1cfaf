# Copyright (c) 2026 the pullthrough.registry_cache authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One object of a Google API, brought to a wanted state with one read and no write that is not needed.

Private to this collection.
"""

from __future__ import annotations

import typing as t

from .client import GcpClient, GcpError, differing, stripped

_Object = dict[str, t.Any]
# Whether that was a change, the object before, the object after.
Outcome = tuple[bool, _Object, _Object]


class Resource:
    """What subclasses say of a kind of object: how it is made, updated and deleted.

    :param api: the service's root, such as C(https://iam.googleapis.com/v1).
    :param name: the object's full name, below the root.
    """

    # Fields that Google sets in a new object, as far as check mode can tell.
    added: t.ClassVar[_Object] = {}

    def __init__(self, client: GcpClient, api: str, name: str) -> None:
        self.client, self.name, self.url, self._api = client, name, f"{api}/{name}", api

    def read(self) -> _Object | None:
        """The object as it is, or None. Raises GcpError."""
        return self.client.get(self.url, self.name)

    def act(self, method: str, url: str, body: t.Any = None, params: _Object | None = None) -> None:
        """A request that answers with a long-running operation, and its end. Raises GcpError."""
        operation = self.client.request(method, url, self.name, body=body, params=params)
        self.client.wait(operation, self._api, self.name)

    def same(self, _field: str, current: t.Any, wanted: t.Any) -> bool:
        """Whether one field is as wanted."""
        return current == wanted

    def deleted(self, _current: _Object) -> bool:
        """Whether Google shows an object that is deleted."""
        return False

    def check(self, current: _Object, wanted: _Object) -> None:
        """Refuse what cannot become of an object, or of none (empty). Raises GcpError."""

    def complete(self, _current: _Object, wanted: _Object) -> _Object:
        """The wanted fields, with what depends on the object as it is."""
        return wanted

    def create(self, wanted: _Object) -> _Object | None:
        """Make the object; returns it, or None to have it read. Raises GcpError."""
        raise NotImplementedError

    def undelete(self) -> None:
        """Bring back an object that is deleted. Raises GcpError."""
        raise NotImplementedError

    def update(self, fields: _Object) -> _Object | None:
        """Replace these fields whole; returns the object, or None to have it read. Raises GcpError."""
        raise NotImplementedError

    def delete(self) -> None:
        """Delete the object. Raises GcpError."""
        self.act("DELETE", self.url)

    def ensure(self, present: bool, wanted: _Object, check_mode: bool) -> Outcome:
        """Bring it to the state that is wanted.

        :param wanted: the fields that are to be so; others stay as they are.
        :raises GcpError: with everything as it was, unless Google did half of it.
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
                # Two clusters of one play share an object: the other one was faster, and may still be at it.
                if error.status != 409:
                    raise
                before, made = self._made_elsewhere(error), error.ambiguous
        self.check(before, wanted)
        wanted = self.complete(before, wanted)
        deleted = self.deleted(before)
        fields = {field: wanted[field] for field in differing(before, wanted, self.same)}
        if not deleted and not fields:
            # After a create without a clear answer, what is found may be its work.
            return (True, {}, before) if made else (False, before, before)
        # What is undeleted loses the time of its end.
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
            if revived:  # else it would be live with what it was deleted with
                self.delete()
            raise

    def _revive(self) -> bool:
        """Undelete, unless somebody else was faster."""
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
                # Somebody else was faster, or a request before this one got through though its answer did not.
                if error.status != 404 and not (error.ambiguous and self._is_gone()):
                    raise
        return True, before, {}

    def _is_gone(self) -> bool:
        current = self.read()
        return current is None or self.deleted(current)

    def _made_elsewhere(self, conflict: GcpError) -> _Object:
        def read() -> _Object:
            found = self.read()
            if found is None:
                raise conflict
            return found

        return self.client.budget.retry(read, lambda error: error is conflict)
